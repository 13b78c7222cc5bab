-- Nobody but the owner's functions writes. flash_app may call those of a sale's daily life, flash_operator those by which a person
-- steps in, and both may read; flash_auditor may read. The roles exist before the migrations run (authority/migrate.py).
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA flash FROM PUBLIC;
GRANT USAGE ON SCHEMA flash TO flash_app, flash_auditor, flash_operator, flash_admin;
GRANT SELECT ON ALL TABLES IN SCHEMA flash TO flash_app, flash_auditor, flash_operator;
GRANT EXECUTE ON FUNCTION iso, reserve_batch, void_attempts, cancel_purchase, expire_due, create_sale, add_item, restock,
    change_sale, raise_epoch, start_payment, payment_next, settle_payment, settle_payments, hear_payment, set_payment_aside,
    expire_payments, resume_payments, lease_outbox, describe_events, mark_sent, forget_events
    TO flash_app;
GRANT EXECUTE ON FUNCTION forget_buyer, repair_books, refund_purchase, return_purchase, record_elsewhere TO flash_operator;
GRANT EXECUTE ON FUNCTION iso TO flash_auditor, flash_operator, flash_admin;
GRANT SELECT ON ALL SEQUENCES IN SCHEMA flash TO flash_auditor;    -- for pg_dump, which reads as the auditor
GRANT EXECUTE ON FUNCTION operate_create_sale, operate_change_sale, operate_add_item, operate_restock, operate_clone_sale
    TO flash_operator;
-- The admin page's process has a listener, so it may do less than who sits at the terminal: it forgets nobody and repairs no books.
GRANT SELECT ON merchant, sale, item, stock, purchase, purchase_document, line, payment, ledger, operation TO flash_admin;
GRANT EXECUTE ON FUNCTION operate_create_sale, operate_change_sale, operate_add_item, operate_restock, operate_clone_sale,
    refund_purchase, return_purchase, record_elsewhere TO flash_admin;
