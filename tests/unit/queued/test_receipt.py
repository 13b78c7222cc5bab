"""A receipt is believed for its buyer, its purchase and its time, and for nothing else."""

import base64
import uuid

import pytest

from flashsale.authority.standing import Standing
from flashsale.contract.verdict import Verdict
from flashsale.contract.wire import Purchase, Refusal
from flashsale.queued.receipt import RECEIPT_SECONDS, Receipt, Receipts

SECRET = "s" * 32
RID, PURCHASE, PRINT = uuid.UUID(int=1), uuid.UUID(int=2), b"f" * 16
NOW = 1_900_000_000.5
TEXT = Receipts(SECRET).issue(RID, PURCHASE, PRINT, "ana", NOW)


def read(
    text: str = TEXT, buyer: str = "ana", purchase: uuid.UUID = PURCHASE, now_s: float = NOW, secret: str = SECRET
) -> Receipt:
    return Receipts(secret).read(text, buyer, purchase, now_s)


def test_it_says_what_was_put_into_it() -> None:
    assert read() == Receipt(RID, PURCHASE, PRINT, int(NOW) + RECEIPT_SECONDS)
    assert read(now_s=NOW + RECEIPT_SECONDS - 1).rid == RID


def test_it_is_nobody_elses() -> None:
    with pytest.raises(Refusal, match="not one of yours"):
        read(buyer="ben")
    with pytest.raises(Refusal, match="not one of yours"):
        read(secret="t" * 32)
    with pytest.raises(Refusal, match="another purchase"):
        read(purchase=uuid.UUID(int=3))
    with pytest.raises(Refusal, match="expired"):
        read(now_s=NOW + RECEIPT_SECONDS + 1)


def test_no_bit_of_it_may_change() -> None:
    raw = base64.urlsafe_b64decode(TEXT)
    for position in range(len(raw)):
        forged = bytearray(raw)
        forged[position] ^= 1
        with pytest.raises(Refusal):
            read(base64.urlsafe_b64encode(forged).decode())


@pytest.mark.parametrize(
    "text", ["", "x", TEXT[:-1], TEXT + "A", TEXT + "=", " " + TEXT, "ключ", "\x00" * len(TEXT), "A" * 100_000]
)
def test_what_is_no_receipt_is_malformed(text: str) -> None:
    with pytest.raises(Refusal):
        read(text)


def test_the_first_secret_signs_and_the_others_are_honoured() -> None:
    old, new, other = "o" * 32, "n" * 32, "x" * 32

    def issued(*secrets: str) -> str:
        return Receipts(*secrets).issue(RID, PURCHASE, PRINT, "ana", NOW)

    def honoured(text: str, *secrets: str) -> bool:
        try:
            return Receipts(*secrets).read(text, "ana", PURCHASE, NOW).rid == RID
        except Refusal:
            return False

    # before, while some processes sign with the one and some with the other, and after
    assert all(honoured(issued(*by), *to) for by in [(old, new), (new, old)] for to in [(old, new), (new, old)])
    assert honoured(issued(old), new, other, old)
    assert not honoured(issued(old), new)
    assert not honoured(issued(new, old), old)
    with pytest.raises(Refusal, match="not one of yours"):
        Receipts(new, old).read(issued(old), "ben", PURCHASE, NOW)


def test_no_key_may_be_passed_off_as_another() -> None:
    old, new = Receipts("o" * 32), Receipts("n" * 32, "o" * 32)
    forged = bytearray(base64.urlsafe_b64decode(old.issue(RID, PURCHASE, PRINT, "ana", NOW)))
    forged[1:5] = base64.urlsafe_b64decode(new.issue(RID, PURCHASE, PRINT, "ana", NOW))[1:5]
    with pytest.raises(Refusal, match="not one of yours"):
        new.read(base64.urlsafe_b64encode(forged).decode(), "ana", PURCHASE, NOW)


def test_no_secret_no_receipts() -> None:
    with pytest.raises(ValueError, match="FLASH_JWT_SECRET"):
        Receipts("")


def bought() -> Purchase:
    return Purchase(PURCHASE, "s", "HELD", 1, 1, None, (), 0, "EUR", ())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("standing", "answer"),
    [
        (Standing(None, None, None), Verdict.QUEUED),
        (Standing("held", PRINT, bought()), Verdict.HELD),
        (Standing("replayed", PRINT, bought()), Verdict.REPLAYED),
        (Standing(None, PRINT, bought()), Verdict.REPLAYED),
        (Standing("sold_out", PRINT, bought()), Verdict.REPLAYED),  # refused once, held later under the same key
        (Standing(None, b"g" * 16, bought()), Verdict.KEY_REUSED),
        (Standing("sold_out", None, None), Verdict.SOLD_OUT),
        (Standing("too_late", None, None), Verdict.TOO_LATE),
        (Standing("void", None, None), Verdict.TRY_LATER),
    ],
)
def test_the_answer_to_its_holder(standing: Standing, answer: Verdict) -> None:
    assert standing.answer(PRINT) is answer
