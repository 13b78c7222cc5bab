"""The receipt of a queued attempt: a signed promise that it will be decided, which outlives the queue that holds it.

It names the attempt (rid), the purchase and the body's fingerprint, and only its buyer can use it. Given back with the same
request, to either backend, it puts the same attempt in again; a rid is decided once, so no number of tries decides twice.
"""

import base64
import hashlib
import hmac
import struct
import uuid
from typing import NamedTuple

from flashsale.contract import wire
from flashsale.contract.verdict import Verdict

# An attempt is remembered for at least a day after its sale, and one that came after the sale is refused however often it
# is decided. So a receipt that dies a day after the attempt was accepted can never make an attempt be decided twice. By the
# clock of the process that accepted it: hours of life make seconds of skew harmless, and no store needs to be asked.
RECEIPT_SECONDS = 24 * 3600

_LAYOUT = struct.Struct(">B4s16s16s16sQ")  # version, key id, rid, purchase, fingerprint, expiry in Unix seconds
_KEY_ID = slice(1, 5)
_VERSION = 1
_MAC_BYTES = 32
_CHARS = len(base64.urlsafe_b64encode(bytes(_LAYOUT.size + _MAC_BYTES)).rstrip(b"="))


class Receipt(NamedTuple):
    """What a receipt says, once it has been checked."""

    rid: uuid.UUID
    purchase: uuid.UUID
    fingerprint: bytes
    expires_s: int


class Receipts:
    """Issues and checks receipts under keys of their own, derived from the secrets that sign tokens.

    The first secret's key signs; those of the ``others`` are honoured. A receipt names its key, so a secret may be replaced in
    the middle of a sale: by being one of the others first, until every process knows it, and the old one afterwards.
    """

    def __init__(self, secret: str, *others: str) -> None:
        if not secret:
            raise ValueError("FLASH_JWT_SECRET is empty; `./flash up` makes one, or set at least 32 characters")
        # derived, so that no receipt can be passed off as a token, nor a token as a receipt
        keys = [hmac.digest(each.encode(), b"flashsale receipt v1", "sha256") for each in (secret, *others)]
        self._keys = {hashlib.sha256(key).digest()[:4]: key for key in keys}
        self._key_id = next(iter(self._keys))

    def issue(self, rid: uuid.UUID, purchase: uuid.UUID, fingerprint: bytes, buyer: str, now_s: float) -> str:
        """A receipt for an attempt accepted at ``now_s`` (Unix seconds)."""
        expires_s = int(now_s) + RECEIPT_SECONDS
        said = _LAYOUT.pack(_VERSION, self._key_id, rid.bytes, purchase.bytes, fingerprint, expires_s)
        return base64.urlsafe_b64encode(said + _mac(self._keys[self._key_id], said, buyer)).rstrip(b"=").decode()

    def read(self, text: str, buyer: str, purchase: uuid.UUID, now_s: float) -> Receipt:
        """What a receipt of this buyer for this purchase says. Raises ``wire.Refusal`` (malformed) for any other."""
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raw = b""
        said, mac = raw[: _LAYOUT.size], raw[_LAYOUT.size :]
        key = self._keys.get(said[_KEY_ID])
        if key is None or len(text) != _CHARS or not hmac.compare_digest(mac, _mac(key, said, buyer)):
            raise wire.Refusal(Verdict.MALFORMED, f"the {wire.RECEIPT_HEADER} is not one of yours, or not whole")
        version, _, rid, purchase_bytes, fingerprint, expires_s = _LAYOUT.unpack(said)
        if (version, purchase_bytes) != (_VERSION, purchase.bytes):
            raise wire.Refusal(Verdict.MALFORMED, f"the {wire.RECEIPT_HEADER} is of another purchase")
        if now_s > expires_s:
            raise wire.Refusal(Verdict.MALFORMED, f"the {wire.RECEIPT_HEADER} has expired; send the key without it")
        return Receipt(uuid.UUID(bytes=rid), purchase, fingerprint, expires_s)


def _mac(key: bytes, said: bytes, buyer: str) -> bytes:
    return hmac.digest(key, said + buyer.encode(), "sha256")
