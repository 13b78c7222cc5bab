"""A certificate holds while its ledger does, for whoever knows the key's fingerprint; any change to either is found."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flashsale.authority.client import Authority
from flashsale.proof import auditor
from flashsale.proof.certificate import (
    CertificateError,
    certify,
    check_ledger,
    check_signature,
    fingerprint_of,
    sign,
    signing_key,
)
from flashsale.proof.stores import StoreUnreachableError
from flashsale.settings import Settings
from tests.contract.test_auditor import Sold, sell
from tests.databases import Database, execute
from tests.patience import PATIENCE_SECONDS

AWAY = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
async def over(database: Database, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Sold:
    """A sale that is over: Ana paid, Ben and Cem gave theirs back."""
    monkeypatch.setattr("flashsale.proof.stores.CONNECT_SECONDS", PATIENCE_SECONDS)
    made = await sell(database)
    await authority.cancel(made.bought["cem"].id, "cem")
    await authority.change_sale(made.sale, state="ENDED")
    await authority.mark_sent([event.id for event in await authority.lease_outbox(1000, timedelta(0))])
    return made


def settings(sold: Sold, redis_url: str) -> Settings:
    return Settings.load({"FLASH_POSTGRES_URL": sold.database.auditor_url, "FLASH_REDIS_URL": redis_url})


def command(url: str, redis_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PYTHONPATH": "src:.",
        "FLASH_POSTGRES_URL": url,
        "FLASH_REDIS_URL": redis_url,
        "PATH": "/usr/bin:/bin",
    }
    return subprocess.run(
        [sys.executable, "-m", "flashsale.proof.certificate", *arguments],
        env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip


async def test_a_certificate_says_what_the_sale_came_to_and_holds_while_the_ledger_does(
    over: Sold, redis_url: str, tmp_path: Path, authority: Authority
) -> None:
    body = await certify(settings(over, redis_url), over.sale)
    assert body["units"] == {"total": 5, "left": 4, "sold": 1}
    assert body["purchases"] == {"CANCELLED": 2, "PAID": 1}
    assert body["money"] == {"currency": "EUR", "minor": {"CANCELLED": 200, "PAID": 100}}
    assert len(body["code"]["sources"]) == 64
    document = json.loads(json.dumps(sign(body, signing_key(tmp_path / "key"))))
    assert check_signature(document, document["fingerprint"]) == body
    url = over.database.auditor_url
    assert await check_ledger(url, body) == 0
    await authority.restock(over.sku, 3)  # what comes later is no breach
    assert await check_ledger(url, body) == 1
    for change in (
        "UPDATE flash.ledger SET at = at + interval '1 microsecond' WHERE seq = 3",
        "UPDATE flash.ledger SET reason = 'another' WHERE seq = 3",
        "DELETE FROM flash.ledger WHERE seq = 3",
    ):
        await execute(over.database.owner_url, change)
        with pytest.raises(CertificateError, match=over.sku):
            await check_ledger(url, body)


Forgery = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (lambda d: d["certificate"]["units"].update(sold=9), "something was changed"),
        (lambda d: d["certificate"]["ledger"]["skus"][0].update(head="00"), "something was changed"),
        (lambda d: d.update(signature=d["signature"][::-1]), "something was changed|no certificate"),
        (lambda d: d.update(fingerprint="0" * 64), "fingerprint is not of the key"),
        (lambda d: d.pop("public_key"), "no certificate"),
        (lambda d: d.update(public_key="AAAA"), "no certificate"),
        (lambda d: d.update(certificate=[]), "something was changed"),
    ],
)
async def test_a_forgery_does_not_hold(tmp_path: Path, forge: Forgery, why: str) -> None:
    document = _signed(tmp_path)
    forge(document)
    with pytest.raises(CertificateError, match=why):
        check_signature(document)


def _signed(tmp_path: Path, name: str = "key", **changes: Any) -> dict[str, Any]:
    skus = [{"sku": "shoe", "seq": 1, "head": "ab"}]
    body = {"version": 1, "units": {"sold": 1}, "ledger": {"skus": skus, "digest": None}}
    from flashsale.proof.certificate import digest_of  # noqa: PLC0415 - beside its one use

    body["ledger"]["digest"] = digest_of(skus)  # type: ignore[index]
    return copy.deepcopy(sign(body | changes, signing_key(tmp_path / name)))


async def test_another_key_or_a_digest_of_other_ledgers_does_not_hold(tmp_path: Path) -> None:
    ours, theirs = _signed(tmp_path), _signed(tmp_path, "their key")
    check_signature(theirs)
    with pytest.raises(CertificateError, match="not by"):
        check_signature(theirs, ours["fingerprint"])
    with pytest.raises(CertificateError, match="digest"):
        check_signature(_signed(tmp_path, ledger={"skus": [{"sku": "shoe", "seq": 2, "head": "ab"}], "digest": "cd"}))
    with pytest.raises(CertificateError, match="digest"):
        check_signature(_signed(tmp_path, version=2))


def test_a_key_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    key = signing_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert fingerprint_of(key.public_key().public_bytes_raw()) == fingerprint_of(
        signing_key(tmp_path / "key").public_key().public_bytes_raw()
    )
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(CertificateError, match="read by others"):
        signing_key(tmp_path / "key")
    (tmp_path / "key").write_text("no key")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(CertificateError, match="no key"):
        signing_key(tmp_path / "key")


async def test_only_a_sale_that_is_over_and_right_is_certified(
    database: Database, authority: Authority, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditor, "SETTLE_S_MAX", 0.0)
    made = await sell(database)
    owner = database.owner_url
    with pytest.raises(CertificateError, match="gate_drift"):  # it has no gate, and is open
        await certify(settings(made, redis_url), made.sale)
    await execute(owner, "UPDATE flash.stock SET state = 'ENDED'", "UPDATE flash.sale SET state = 'ENDED'")
    with pytest.raises(CertificateError, match="1 purchases are undecided"):
        await certify(settings(made, redis_url), made.sale)
    await authority.cancel(made.bought["cem"].id, "cem")
    await authority.mark_sent([event.id for event in await authority.lease_outbox(1000, timedelta(0))])
    await certify(settings(made, redis_url), made.sale)
    with pytest.raises(CertificateError, match="there is no sale"):
        await certify(settings(made, redis_url), "another")
    await execute(owner, "UPDATE flash.quota SET active = 1 WHERE buyer = 'ben'")
    with pytest.raises(CertificateError, match="leaked"):
        await certify(settings(made, redis_url), made.sale)
    with pytest.raises(StoreUnreachableError):
        await check_ledger(AWAY, {"ledger": {"skus": []}})


async def test_the_command_certifies_and_verifies_with_its_exit_codes(
    over: Sold, redis_url: str, tmp_path: Path
) -> None:
    url, file, key = over.database.auditor_url, str(tmp_path / "certificate.json"), str(tmp_path / "key")
    made = command(url, redis_url, "--sale", over.sale, "--out", file, "--key", key, "--json")
    assert made.returncode == 0, made.stderr
    fingerprint = json.loads(made.stdout)["fingerprint"]
    assert len(fingerprint) == 64
    verified = command(url, redis_url, "--verify", file)
    assert (verified.returncode, "holds: True" in verified.stdout) == (0, True)
    assert command(AWAY, redis_url, "--verify", file).returncode == 3
    assert command(url, redis_url, "--verify", file, "--fingerprint", "0" * 64).returncode == 1
    assert command(url, redis_url, "--verify", str(tmp_path / "nothing")).returncode == 2
