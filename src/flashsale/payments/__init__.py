"""The money: from a buyer's wish to pay to a captured payment, or to its return.

``pay → outbox → queue → worker → gateway → outcome``. The authority decides what an outcome means and what comes next
(migration ``0004_payments.sql``); everything here carries messages, and may carry any of them twice.
"""
