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
    """Issues and checks receipts under a key of its own, derived from the secret that signs tokens."""

    def __init__(self, secret: str) -> None:
        if not secret:
            raise ValueError("FLASH_JWT_SECRET is empty; `./flash up` makes one, or set at least 32 characters")
        # derived, so that no receipt can be passed off as a token, nor a token as a receipt
        self._key = hmac.digest(secret.encode(), b"flashsale receipt v1", "sha256")
        self._key_id = hashlib.sha256(self._key).digest()[:4]

    def issue(self, rid: uuid.UUID, purchase: uuid.UUID, fingerprint: bytes, buyer: str, now_s: float) -> str:
        """A receipt for an attempt accepted at ``now_s`` (Unix seconds)."""
        expires_s = int(now_s) + RECEIPT_SECONDS
        said = _LAYOUT.pack(_VERSION, self._key_id, rid.bytes, purchase.bytes, fingerprint, expires_s)
        return base64.urlsafe_b64encode(said + self._mac(said, buyer)).rstrip(b"=").decode()

    def read(self, text: str, buyer: str, purchase: uuid.UUID, now_s: float) -> Receipt:
        """What a receipt of this buyer for this purchase says. Raises ``wire.Refusal`` (malformed) for any other."""
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raw = b""
        said, mac = raw[: _LAYOUT.size], raw[_LAYOUT.size :]
        if len(text) != _CHARS or not hmac.compare_digest(mac, self._mac(said, buyer)):
            raise wire.Refusal(Verdict.MALFORMED, f"the {wire.RECEIPT_HEADER} is not one of yours, or not whole")
        version, key_id, rid, purchase_bytes, fingerprint, expires_s = _LAYOUT.unpack(said)
        if (version, key_id, purchase_bytes) != (_VERSION, self._key_id, purchase.bytes):
            raise wire.Refusal(Verdict.MALFORMED, f"the {wire.RECEIPT_HEADER} is of another purchase")
        if now_s > expires_s:
            raise wire.Refusal(Verdict.MALFORMED, f"the {wire.RECEIPT_HEADER} has expired; send the key without it")
        return Receipt(uuid.UUID(bytes=rid), purchase, fingerprint, expires_s)

    def _mac(self, said: bytes, buyer: str) -> bytes:
        return hmac.digest(self._key, said + buyer.encode(), "sha256")
