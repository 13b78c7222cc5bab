"""``python -m flashsale.proof.certificate``: signs what a sale came to, and checks such a certificate.

A certificate says what the ledger of every SKU was, as the head of a hash chain over its rows, with totals, counts and money, the
audit that held at that moment, and the code that ran. It is canonical JSON under an Ed25519 signature, so whoever knows the
fingerprint can check it without a secret.

It proves that the holder of the key signed these numbers and that the ledger still begins with these rows. It does not prove that
the key's holder was honest, what happened outside the stores that the audit names, or anything that came later: rows after the
certified ones are counted and not judged. Counts of purchases and money are signed as they were and not computed anew.

Exit codes: 0 ok; 1 it does not hold, or the sale cannot be certified; 2 bad usage; 3 a store cannot be reached.
"""

import argparse
import asyncio
import base64
import binascii
import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from flashsale.clone import ask_git
from flashsale.proof.auditor import Report, audit, journals_of
from flashsale.proof.evidence import EvidenceError
from flashsale.proof.invariants import RULES
from flashsale.proof.stores import CHUNK, StoreUnreachableError, read_books, reading
from flashsale.settings import REPOSITORY, Settings, SettingsError

VERSION = 1
CONTEXT = b"flash-sale certificate 1\n"  # what is signed begins with it, so that the key's signature under anything else is none
FILE_BYTES_MAX = 16 * 1024 * 1024  # a sale of ten thousand SKUs has a few
SOURCES = ("*.py", "*.sql", "*.lua")

_SALE = """SELECT id, merchant_id AS merchant, name, state, to_jsonb(opens) #>> '{}' AS opens, to_jsonb(closes) #>> '{}' AS closes,
    currency, buyer_limit, hold_seconds, state = 'ENDED' OR closes <= now() AS is_over FROM sale WHERE id = $1"""
_STOCK = "SELECT sku, total, available, seq FROM stock WHERE sale_id = $1 ORDER BY sku"
_ROWS = """SELECT sku, seq, kind, reason, delta, purchase_id::text, generation, epoch, to_jsonb(at) #>> '{}' FROM ledger
    WHERE sku = ANY ($1::text[]) ORDER BY sku, seq"""
_STATES = "SELECT state, count(*), sum(total_minor)::bigint FROM purchase WHERE sale_id = $1 AND version > 0 GROUP BY state ORDER BY state"
_UNDECIDED = {"HELD", "AUTHORIZING", "AUTHORIZED"}


class CertificateError(Exception):
    """Why there is no certificate, or why one does not hold."""


def canonical(document: Any) -> bytes:
    """One spelling per document; numbers are whole."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


# --- the ledger's digest


class Chain:
    """A hash chain over one SKU's rows in the order of seq. Its head stands for all of them, and for their order."""

    def __init__(self, sku: str) -> None:
        self.rows = 0
        self._head = hashlib.sha256(CONTEXT + sku.encode()).digest()

    def add(self, row: tuple[Any, ...]) -> None:
        self.rows += 1
        self._head = hashlib.sha256(self._head + canonical(row)).digest()

    @property
    def head(self) -> str:
        return self._head.hex()


async def chains(connection: asyncpg.Connection, until: Mapping[str, int]) -> tuple[dict[str, Chain], int]:
    """The chain of every SKU up to its seq in ``until``, and how many rows came after those."""
    found = {sku: Chain(sku) for sku in until}
    later = 0
    async for row in connection.cursor(_ROWS, sorted(until), prefetch=CHUNK):
        sku, *rest = row
        if rest[0] <= until[sku]:
            found[sku].add(tuple(rest))
        else:
            later += 1
    return found, later


def digest_of(skus: list[dict[str, Any]]) -> str:
    """One digest for the ledgers of all SKUs."""
    return hashlib.sha256(canonical([[row["sku"], row["seq"], row["head"]] for row in skus])).hexdigest()


# --- making one


async def certify(settings: Settings, sale: str) -> dict[str, Any]:
    """What there is to sign about a sale that is over. Raises CertificateError, StoreUnreachableError, EvidenceError."""
    report = await audit(
        settings.postgres_url,
        settings.redis_url,
        rabbitmq_url=settings.rabbitmq_url,
        sale=sale,
        journals=journals_of(settings),
    )
    if not report.clean:
        wrong = {name: finding.number for name, finding in report.findings.items() if finding.number}
        raise CertificateError(f"the audit of {sale} found {wrong}; ./flash audit says what")
    async with reading(settings.postgres_url) as connection:
        return await _body(connection, sale, report)


async def _body(connection: asyncpg.Connection, sale: str, report: Report) -> dict[str, Any]:
    books = await read_books(connection, sale, RULES)  # once more, so that the very rows that are signed were judged
    row = await connection.fetchrow(_SALE, sale)
    if row is None:
        raise CertificateError(f"there is no sale {sale}")
    states = {state: (number, minor) for state, number, minor in await connection.fetch(_STATES, sale)}
    undecided = sum(number for state, (number, _) in states.items() if state in _UNDECIDED)
    if not row["is_over"]:
        raise CertificateError(f"sale {sale} is not over")
    if undecided or books.tallies:
        raise CertificateError(f"sale {sale} is over and not at rest: {undecided} purchases are undecided")
    skus = [dict(each) for each in await connection.fetch(_STOCK, sale)]
    found, _ = await chains(connection, {each["sku"]: each["seq"] for each in skus})
    skus = [each | {"head": found[each["sku"]].head} for each in skus]
    total, available = (sum(each[name] for each in skus) for name in ("total", "available"))
    return {
        "version": VERSION,
        "at": books.at.isoformat(),
        "sale": {name: value for name, value in row.items() if name != "is_over"},
        "ledger": {"skus": skus, "digest": digest_of(skus)},
        "units": {"total": total, "left": available, "sold": total - available},
        "purchases": {state: number for state, (number, _) in states.items()},
        "money": {"currency": row["currency"], "minor": {state: minor for state, (_, minor) in states.items()}},
        "audit": {
            "findings": {name: finding.number for name, finding in report.findings.items()},
            "rules": sorted(report.look.judged),
            "scope": report.scope,
        },
        "code": code(),
    }


def code() -> dict[str, Any]:
    """Which code this is: its commit if git knows it, and a digest of its files."""
    digest = hashlib.sha256()
    for folder in ("src", "loadbalancer"):
        for path in sorted(path for kind in SOURCES for path in (REPOSITORY / folder).rglob(kind)):
            digest.update(f"{path.relative_to(REPOSITORY)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": None if changed is None else bool(changed), "sources": digest.hexdigest()}


def _git(*arguments: str) -> str | None:
    try:
        return os.fsdecode(ask_git(REPOSITORY, os.environ, *arguments)).strip()
    except (OSError, subprocess.SubprocessError):
        return None


# --- the signature


def signing_key(path: Path) -> Ed25519PrivateKey:
    """The key at ``path``, made at first need and readable by its owner alone. Raises CertificateError."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise CertificateError(f"{path} can be read by others: chmod 600, or remove it and use a new one") from None
        return _load(path)
    made = Ed25519PrivateKey.generate()
    with open(file, "wb") as opened:  # noqa: PTH123 - a descriptor, opened with its mode
        opened.write(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def _load(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise CertificateError(f"{path} holds no key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CertificateError(f"{path} holds another kind of key")
    return key


def fingerprint_of(public_key: bytes) -> str:
    return hashlib.sha256(public_key).hexdigest()


def sign(body: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """The certificate as it is written to a file."""
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    named = {"certificate": body, "public_key": base64.b64encode(public).decode()}
    return named | {
        "fingerprint": fingerprint_of(public),
        "signature": base64.b64encode(key.sign(CONTEXT + canonical(named))).decode(),
    }


def check_signature(document: Any, fingerprint: str | None = None) -> dict[str, Any]:
    """The signed body. Raises CertificateError if it is not one, was changed, or is not of the key with ``fingerprint``."""
    try:
        body, public_key = document["certificate"], document["public_key"]
        public = base64.b64decode(public_key, validate=True)
        signature = base64.b64decode(document["signature"], validate=True)
        Ed25519PublicKey.from_public_bytes(public).verify(
            signature, CONTEXT + canonical({"certificate": body, "public_key": public_key})
        )
        skus = [(row["sku"], int(row["seq"]), row["head"]) for row in body["ledger"]["skus"]]
    except InvalidSignature:
        raise CertificateError("the signature does not fit: something was changed") from None
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise CertificateError(f"this is no certificate: {error!r}") from error
    if fingerprint_of(public) != document.get("fingerprint"):
        raise CertificateError("the fingerprint is not of the key that signed")
    if fingerprint is not None and fingerprint != fingerprint_of(public):
        raise CertificateError(f"signed by {fingerprint_of(public)}, not by {fingerprint}")
    if body.get("version") != VERSION or not skus or digest_of(body["ledger"]["skus"]) != body["ledger"]["digest"]:
        raise CertificateError("its digest is not that of its ledgers")
    checked: dict[str, Any] = body
    return checked


async def check_ledger(postgres_url: str, body: dict[str, Any]) -> int:
    """Do the ledgers still begin with the certified rows? Returns how many rows came later. Raises CertificateError,
    StoreUnreachableError.
    """
    certified = {row["sku"]: row for row in body["ledger"]["skus"]}
    async with reading(postgres_url) as connection:
        found, later = await chains(connection, {sku: row["seq"] for sku, row in certified.items()})
    for sku, chain in found.items():
        if chain.rows != certified[sku]["seq"]:
            raise CertificateError(
                f"{sku}: {certified[sku]['seq']} rows were certified, {chain.rows} of them are there"
            )
        if chain.head != certified[sku]["head"]:
            raise CertificateError(f"{sku}: its ledger is not the one that was certified")
    return later


# --- the command


def main() -> int:
    try:
        settings = Settings.load(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    options = _parse()
    try:
        document = _certify(settings, options) if options.sale else _verify(settings, options)
    except CertificateError as error:
        print(f"{'not certified' if options.sale else 'does not hold'}: {error}", file=sys.stderr)
        return 1
    except (EvidenceError, OSError, json.JSONDecodeError) as error:
        print(error, file=sys.stderr)
        return 2
    except StoreUnreachableError as error:
        print(f"the signature fits, the ledger was not checked: {error}" if options.verify else error, file=sys.stderr)
        return 3
    if options.json:
        print(json.dumps(document))
    else:
        print("\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in document.items()))
    return 0


def _certify(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    body = asyncio.run(certify(settings, options.sale))
    document = sign(body, signing_key(options.key))
    options.out.write_bytes(canonical(document) + b"\n")
    return {"certificate": str(options.out), **_named(document)}


def _verify(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    with options.verify.open("rb") as file:
        text = file.read(FILE_BYTES_MAX + 1)
    if len(text) > FILE_BYTES_MAX:
        raise CertificateError(f"longer than {FILE_BYTES_MAX} bytes")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CertificateError(f"this is no certificate: {error}") from error
    body = check_signature(document, options.fingerprint)
    if not settings.postgres_url:
        raise StoreUnreachableError("no PostgreSQL is running or named")
    later = asyncio.run(check_ledger(settings.postgres_url, body))
    return {"holds": True, **_named(document), "rows_since": later}


def _named(document: dict[str, Any]) -> dict[str, Any]:
    body = document["certificate"]
    return {
        "sale": body["sale"]["id"],
        "at": body["at"],
        "digest": body["ledger"]["digest"],
        "fingerprint": document["fingerprint"],
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flashsale.proof.certificate", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--sale", metavar="ID", help="certify this sale")
    what.add_argument("--verify", type=Path, metavar="FILE", help="check this certificate")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write it")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the signing key, made at first need")
    parser.add_argument("--fingerprint", metavar="HEX", help="the only key that is believed")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    options = parser.parse_args()
    if options.sale and not (options.out and options.key):
        parser.error("--sale needs --out and --key")
    return options


if __name__ == "__main__":
    sys.exit(main())
