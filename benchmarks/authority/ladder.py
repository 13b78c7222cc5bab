"""What each feature of ``reserve_batch`` costs: the function without its topmost feature, then without the next one, and so on.

Each rung is the text of the migration with one more thing cut out, so a rung that no longer fits its text ends the run
instead of measuring something else. At the bottom stands what any shop does: insert, update, commit.
"""

import re
from importlib import resources
from typing import NamedTuple

FUNCTION = "reserve_batch"
EVERYTHING = "everything on"
TOP = "everything on, as the top of the ladder"
BARE = "bare insert and update"
_FILE = "0003_reserve_batch.sql"

# The tables of the bare statement are the shop's own, with all their columns, indexes and checks.
BARE_TABLES = """
    CREATE TABLE bare_purchase (LIKE purchase INCLUDING ALL);
    CREATE TABLE bare_outbox (LIKE outbox INCLUDING ALL);
    CREATE TABLE bare_stock (LIKE stock INCLUDING ALL);
    INSERT INTO bare_stock SELECT * FROM stock"""
BARE_STATEMENT = """
    WITH held AS (
        INSERT INTO bare_purchase (id, sale_id, buyer, key, fingerprint, state, version, generation, deadline, total_minor, history)
        SELECT u.id, 'bench', u.buyer, u.key, u.fingerprint, 'HELD', 1, 1, now() + interval '12 hours', 100,
               '[{"state": "HELD", "version": 1, "at": "2026-01-01T00:00:00.000Z"}]'
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[]) u (id, buyer, key, fingerprint) RETURNING id
    ), told AS (
        INSERT INTO bare_outbox (topic, subject, version, at) SELECT 'purchase.held', id::text, 1, now() FROM held
    )
    UPDATE bare_stock SET available = available - (SELECT count(*) FROM held), seq = seq + (SELECT count(*) FROM held)
    WHERE sku = 'sku-0' RETURNING available"""

_VERDICTS_ONLY = """
    SELECT a.at, a.verdict, NULL::uuid, NULL::text, NULL::text, NULL::text, NULL::integer, NULL::integer, NULL::timestamptz,
           NULL::bigint, NULL::text, NULL::jsonb, NULL::jsonb, NULL::text[], NULL::integer[], NULL::bigint[], NULL::bigint[],
           NULL::bigint[]
    FROM unnest(v) WITH ORDINALITY a (verdict, at);"""


class Rung(NamedTuple):
    """One feature, and how it is cut out: regular expressions over the function, and what stands there instead."""

    feature: str
    cuts: tuple[tuple[str, str], ...]


RUNGS = (
    Rung(
        "the purchase in the answer",
        (
            (
                r"SELECT r\.\* FROM \(.*\) r ORDER BY r\.ordinal;",
                _VERDICTS_ONLY,
            ),
        ),
    ),
    Rung("events", ((r"INSERT INTO outbox.*?;", ""),)),
    Rung(
        "attempts that are decided once",
        (
            (r"INSERT INTO attempt.*?;", ""),
            (r"CASE WHEN t\.purchase_id <> u\.purchase.*?END AS verdict", "NULL::text AS verdict"),
            (r"LEFT JOIN attempt t ON t\.rid = u\.rid", ""),
        ),
    ),
    Rung(
        "keys that are replayed",
        (
            (r"p\.fingerprint, min", "NULL::bytea AS fingerprint, min"),
            (r"LEFT JOIN purchase p ON p\.id = u\.purchase", ""),
        ),
    ),
    Rung("the ledger", ((r"INSERT INTO ledger.*?;", ""),)),
    Rung("lines", ((r"INSERT INTO line .*?;", ""),)),
    Rung(
        "the limit per buyer",
        (
            (r"SELECT array_agg\(a\.quota ORDER.*?;", ""),
            (r"SELECT array_agg\(a\.sale\), array_agg\(a\.buyer\).*?;", ""),
            (r"WITH made AS.*?;", ""),
            (r"PERFORM 1 FROM unnest\(lock_sale.*?;", ""),
            (r"SELECT array_agg\(CASE WHEN a\.made.*?;", ""),
            (r"WHEN q_active\[.*?'over_limit'", ""),
            (r"q_active\[quota_of\[i\]\] := .*?;", ""),
            (r"UPDATE quota q.*?;", ""),
        ),
    ),
    Rung("due holds end first", ((r"SELECT coalesce\(array_agg\(d\.id.*?;", "ended := '{}';"),)),
    Rung("the claim", ((r"PERFORM claim_attempts\(p_rid, p_purchase\);", ""),)),
)


def functions() -> list[str]:
    """As SQL, the function with one rung less each time; ``rung_name`` tells their names. Raises ``ValueError``: out of date."""
    file = resources.files("flashsale.authority") / "migrations" / _FILE
    found = re.search(rf"CREATE FUNCTION {FUNCTION}\(.*?END \$\$;", file.read_text("utf-8"), re.DOTALL)
    if found is None:
        raise ValueError(f"{_FILE} does not create {FUNCTION}")
    text = found.group(0)
    texts = []
    for number, rung in enumerate(RUNGS, 1):
        for cut, instead in rung.cuts:
            text, cuts = re.subn(cut, instead.replace("\\", r"\\"), text, flags=re.DOTALL)
            if cuts != 1:
                raise ValueError(f"the rung {rung.feature!r} is out of date: {cut!r} was found {cuts} times")
        texts.append(text.replace(f"{FUNCTION}(", f"{rung_name(number)}(", 1))
    return texts


def rung_name(number: int) -> str:
    """The function without the first ``number`` rungs; 0: nothing is missing."""
    return FUNCTION if number == 0 else f"{FUNCTION}_rung_{number}"
