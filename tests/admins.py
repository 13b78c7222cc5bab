"""The admin page's process for tests, and somebody who is signed in to it."""

import asyncio
import contextlib
import json
import secrets
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from flashsale.admin.guard import CSRF_HEADER
from flashsale.admin.passwords import hashed
from tests.databases import Database, given
from tests.patience import PATIENCE_SECONDS
from tests.servers import Process

PASSWORDS = {"olga": "an operator's password", "vera": "a viewer's password"}
ROLES = {"olga": "operator", "vera": "viewer"}


class Heard(NamedTuple):
    """An answer."""

    status: int
    body: Any
    headers: Mapping[str, str]


@dataclass
class Client:
    """Somebody at the API, as the page is; signed in once ``sign_in`` has been called."""

    url: str
    session: aiohttp.ClientSession
    csrf: str = ""
    is_patient: bool = True  # asks again while a store is busy, which a machine under load makes one look

    async def sign_in(self, name: str, password: str | None = None) -> Heard:
        """As one of ``PASSWORDS``."""
        password = PASSWORDS[name] if password is None else password
        heard = await self.post("/api/session", {"name": name, "password": password})
        if heard.status == 200:
            self.csrf = heard.body["csrf"]
        return heard

    async def get(self, path: str, **headers: str) -> Heard:
        """As it comes."""
        return await self._heard("GET", path, headers, None)

    async def post(self, path: str, document: Any, headers: Mapping[str, str | None] | None = None) -> Heard:
        """As the page posts; ``headers`` replace its own, and None leaves one out."""
        own = {"Origin": self.url, "Content-Type": "application/json", CSRF_HEADER: self.csrf}
        told = {name: value for name, value in {**own, **(headers or {})}.items() if value is not None}
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return await self._heard("POST", path, told, body)

    async def plan(self, action: str, **values: Any) -> Heard:
        """What it would change."""
        return await self.post(f"/api/plans/{action}", values)

    async def do(self, action: str, key: str = "", reason: str = "because", **values: Any) -> Heard:
        """Does it, under a new key unless one is given."""
        headers = {"Idempotency-Key": key or secrets.token_hex(16)}
        return await self.post(f"/api/deeds/{action}", values | {"reason": reason}, headers)

    async def _heard(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Heard:
        until = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while True:
            async with self.session.request(method, self.url + path, headers=headers, data=body) as answer:
                text = await answer.text()
                kind = answer.content_type
                heard = Heard(answer.status, json.loads(text) if kind.endswith("json") else text, dict(answer.headers))
            if heard.status != 503 or not self.is_patient or asyncio.get_running_loop().time() > until:
                return heard
            await asyncio.sleep(0.2)


@dataclass
class Admin:
    """The running process, and the file of its users."""

    process: Process
    users: Path

    @property
    def url(self) -> str:
        return self.process.url

    @contextlib.asynccontextmanager
    async def client(self, name: str | None = None) -> AsyncIterator[Client]:
        """Somebody of their own; signed in, if they are named."""
        limit = aiohttp.ClientTimeout(total=2 * PATIENCE_SECONDS)
        jar = aiohttp.CookieJar(unsafe=True)  # hosts that are addresses have cookies too
        async with aiohttp.ClientSession(cookie_jar=jar, timeout=limit) as session:
            client = Client(self.url, session)
            if name is not None:
                assert (await client.sign_in(name)).status == 200
            yield client


@contextlib.asynccontextmanager
async def admin_of(database: Database, folder: Path, **settings: str) -> AsyncIterator[Admin]:
    """On a test's own database, with a user of each role."""
    users = folder / f"users-{uuid.uuid4().hex}.json"
    users.write_text(
        json.dumps({name: {"role": ROLES[name], "password": _HASHED[name]} for name in PASSWORDS}), encoding="utf-8"
    )
    environment = {
        "FLASH_ROLE": "admin",
        "FLASH_POSTGRES_URL": database.admin_url,
        "FLASH_RABBITMQ_URL": given("FLASH_TEST_RABBITMQ_URL"),
        "FLASH_ADMIN_USERS": str(users),
        **settings,
    }
    process = Process("admin", environment)
    await process.start()
    try:
        yield Admin(process, users)
    finally:
        await process.stop()


_HASHED = {name: hashed(password) for name, password in PASSWORDS.items()}
