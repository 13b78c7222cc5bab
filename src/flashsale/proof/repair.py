"""``python -m flashsale.proof.repair``: proposes how to put right what an audit found, and carries a proposal out.

A plan is made from one snapshot and changes nothing. It is carried out by an operator's name and reason, if the books would still
lead to the very same plan, by one function of the authority (0009_repairs.sql) that checks the same again under its locks. The
ledger's restocks and the purchases' states are taken for true; counts are made to follow them.

Never repaired: money at gateways, purchases that keep units which no ledger row gave them, gaps in a ledger, and anything that
would take units from a buyer. Those need a person, and stay in the plan as what is ``left``.

Exit codes: 0 nothing to do, or done; 1 something to do, or refused; 2 bad usage; 3 a store cannot be reached.
"""

import argparse
import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import asyncpg

from flashsale.contract.lifecycle import HOLDING
from flashsale.proof.auditor import audit, journals_of
from flashsale.proof.certificate import canonical
from flashsale.proof.evidence import EvidenceError
from flashsale.proof.stores import CONNECT_SECONDS, READ_SECONDS, SESSION, StoreUnreachableError, reading
from flashsale.settings import Settings, SettingsError

FILE_BYTES_MAX = 64 * 1024 * 1024
ACTIONS = ("returns", "stock", "quota", "sales")
# What a plan puts right, by rule; everything else that was found is left.
REPAIRABLE = frozenset(
    {
        "units-nowhere",
        "units-twice",
        "above-the-ledger",
        "below-the-ledger",
        "total-not-restocked",
        "given-unkept",
        "quota-differs",
        "copy-differs",
        "gate-drift",
    }
)

_RETURNS = """
    SELECT h.purchase_id::text AS purchase, h.sku, h.generation, -h.delta AS units
    FROM ledger h JOIN purchase p ON p.id = h.purchase_id
    LEFT JOIN ledger r ON r.purchase_id = h.purchase_id AND r.sku = h.sku AND r.generation = h.generation AND r.kind = 'return'
    WHERE h.kind = 'hold' AND r.seq IS NULL AND NOT (p.version > 0 AND p.state = ANY ($1::text[]) AND p.generation = h.generation)
    ORDER BY h.sku, h.purchase_id, h.generation"""
_STOCK = """
    SELECT s.sku, s.seq, s.available, s.total, m.restocked AS to_total, m.restocked - h.held AS to_available, m.fold,
           m.rows = s.seq AND m.first = 1 AND m.last = s.seq AS is_dense
    FROM stock s
    JOIN (SELECT k.sku, coalesce(sum(l.delta), 0)::bigint AS fold, count(l.seq) AS rows, coalesce(min(l.seq), 1) AS first,
                 coalesce(max(l.seq), 0) AS last, coalesce(sum(l.delta) FILTER (WHERE l.kind = 'restock'), 0)::bigint AS restocked
          FROM stock k LEFT JOIN ledger l USING (sku) GROUP BY k.sku) m USING (sku)
    JOIN (SELECT k.sku, coalesce(sum(l.quantity), 0)::bigint AS held
          FROM stock k LEFT JOIN (SELECT l.sku, l.quantity FROM line l JOIN purchase p ON p.id = l.purchase_id
                                  WHERE p.version > 0 AND p.state = ANY ($1::text[])) l USING (sku) GROUP BY k.sku) h USING (sku)
    ORDER BY s.sku"""
_QUOTA = """
    SELECT sale_id AS sale, buyer, coalesce(q.active, 0)::bigint AS active, coalesce(h.units, 0)::bigint AS to_active
    FROM (SELECT sale_id, buyer, active FROM quota) q
    FULL JOIN (SELECT p.sale_id, p.buyer, sum(l.quantity) AS units FROM purchase p JOIN line l ON l.purchase_id = p.id
               WHERE p.version > 0 AND p.state = ANY ($1::text[]) GROUP BY 1, 2) h USING (sale_id, buyer)
    WHERE coalesce(q.active, 0) <> coalesce(h.units, 0) ORDER BY 1, 2"""
_SALES = """
    SELECT DISTINCT s.id AS sale, s.epoch FROM sale s LEFT JOIN stock k ON k.sale_id = s.id
    WHERE s.id = ANY ($1::text[]) OR k.sku = ANY ($1::text[]) ORDER BY 1"""


class RepairError(Exception):
    """Why a plan was refused."""


def digest_of(plan: dict[str, Any]) -> str:
    """What a plan does, and to which state, in one word; what it leaves does not count."""
    return hashlib.sha256(canonical({name: plan[name] for name in ACTIONS})).hexdigest()


async def propose(settings: Settings) -> dict[str, Any]:
    """A plan for everything that an audit finds now. Raises StoreUnreachableError, EvidenceError."""
    report = await audit(
        settings.postgres_url,
        settings.redis_url,
        rabbitmq_url=settings.rabbitmq_url,
        journals=journals_of(settings),
    )
    tallies = {tally.rule: tally for tally in report.look.tallies}
    gates = [
        subject for rule in ("gate-drift", "copy-differs") if rule in tallies for subject in tallies[rule].subjects
    ]
    left = [text for rule, tally in tallies.items() if rule not in REPAIRABLE for text in tally.texts]
    holding = sorted(HOLDING)
    async with reading(settings.postgres_url) as connection:
        returns = [dict(row) for row in await connection.fetch(_RETURNS, holding)]
        stock = []
        for row in await connection.fetch(_STOCK, holding):
            coming = sum(each["units"] for each in returns if each["sku"] == row["sku"])
            action = {name: row[name] for name in ("sku", "seq", "available", "total", "to_available", "to_total")}
            action["delta"] = row["to_available"] - row["fold"] - coming
            if not (
                coming or action["delta"] or row["available"] != row["to_available"] or row["total"] != row["to_total"]
            ):
                continue
            if row["is_dense"] and row["to_available"] >= 0:
                stock.append(action)
            else:
                left.append(
                    f"{row['sku']}: a gap in its ledger, or more units held than there are: no count can be right"
                )
        plan = {
            "returns": [each for each in returns if any(row["sku"] == each["sku"] for row in stock)],
            "stock": stock,
            "quota": [dict(row) for row in await connection.fetch(_QUOTA, holding)],
            "sales": [dict(row) for row in await connection.fetch(_SALES, gates)],
            "left": sorted(left),
        }
    return plan | {"digest": digest_of(plan)}


async def apply(settings: Settings, plan: Any, operator: str, reason: str) -> bool:
    """
    Carry the plan out; False: it was, before. `settings` name the operator's PostgreSQL. Raises RepairError if the books would not
    lead to this plan any more, StoreUnreachableError, EvidenceError.
    """
    try:
        digest = plan["digest"]
        if digest != digest_of(plan):
            raise RepairError("the plan was changed since it was proposed")
    except (KeyError, TypeError, ValueError) as error:
        raise RepairError(f"this is no plan: {error!r}") from error
    key = f"repair-{digest[:56]}"
    async with reading(settings.postgres_url) as connection:
        if await connection.fetchval("SELECT EXISTS (SELECT FROM operation WHERE key = $1)", key):
            return False
    if not any(plan[name] for name in ACTIONS):
        raise RepairError("the plan does nothing")
    if (await propose(settings))["digest"] != digest:
        raise RepairError("the plan is stale: the books lead to another one now. Propose again")
    try:
        connection = await asyncpg.connect(
            settings.postgres_url, timeout=CONNECT_SECONDS, command_timeout=READ_SECONDS, server_settings=SESSION
        )
        try:
            actions = json.dumps({name: plan[name] for name in ACTIONS})
            done: bool = await connection.fetchval(
                "SELECT repair_books($1, $2, $3, $4::jsonb)", key, operator, reason, actions
            )
            return done
        finally:
            await connection.close(timeout=CONNECT_SECONDS)
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
        raise RepairError(str(error)) from error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StoreUnreachableError(f"PostgreSQL: {error!r}") from error


def main() -> int:
    try:
        settings = Settings.load(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    options = _parse()
    try:
        return asyncio.run(_apply(settings, options) if options.apply else _propose(settings, options))
    except RepairError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    except (EvidenceError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except StoreUnreachableError as error:
        print(error, file=sys.stderr)
        return 3


async def _propose(settings: Settings, options: argparse.Namespace) -> int:
    plan = await propose(settings)
    text = json.dumps(plan, indent=2)
    if options.out:
        await asyncio.to_thread(options.out.write_text, text + "\n", "utf-8")
        counts = {name: len(plan[name]) for name in (*ACTIONS, "left")}
        if options.json:
            print(json.dumps({"plan": str(options.out), **counts, "digest": plan["digest"]}))
        else:
            words = ", ".join(f"{count} {name}" for name, count in counts.items())
            print(f"{options.out}: {words}, digest {plan['digest']}")
    else:
        print(text)
    return 1 if any(plan[name] for name in (*ACTIONS, "left")) else 0


async def _apply(settings: Settings, options: argparse.Namespace) -> int:
    with options.apply.open("rb") as file:
        text = file.read(FILE_BYTES_MAX + 1)
    if len(text) > FILE_BYTES_MAX:
        raise RepairError(f"longer than {FILE_BYTES_MAX} bytes")
    try:
        plan = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RepairError(f"this is no plan: {error}") from error
    done = await apply(settings, plan, options.operator, options.reason)
    if options.json:
        print(json.dumps({"applied": done}))
    else:
        print("applied" if done else "was applied before; nothing was done")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flashsale.proof.repair", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write the plan; default: stdout")
    parser.add_argument("--apply", type=Path, metavar="FILE", help="carry this plan out")
    parser.add_argument("--operator", metavar="NAME", help="who does it")
    parser.add_argument("--reason", metavar="TEXT", help="why")
    parser.add_argument("--json", action="store_true", help="the result as JSON, which a plan on stdout is anyway")
    options = parser.parse_args()
    if options.apply and not (options.operator and options.reason):
        parser.error("--apply needs --operator and --reason")
    return options


if __name__ == "__main__":
    sys.exit(main())
