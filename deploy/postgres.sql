-- Run once, when the volume is new, by the superuser. The engine's owner is no superuser: its functions run with the
-- rights of whoever owns them.
\getenv password POSTGRES_OWNER_PASSWORD
CREATE ROLE flash_owner LOGIN CREATEROLE CREATEDB PASSWORD :'password';
CREATE DATABASE flash OWNER flash_owner;
