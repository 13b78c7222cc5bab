"""Signed webhooks: an HMAC over the time and the body, so that neither can be changed and an old one is recognised.

Webhook-Signature: t=<unix seconds>,v1=<hex HMAC-SHA256 of "<t>.<body>">
"""

import hashlib
import hmac
import re

HEADER = "Webhook-Signature"
WINDOW_SECONDS = 300  # clocks that differ and a sender's few tries fit; an event's id stops what is replayed within it

_PATTERN = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})", re.ASCII)


def sign(secret: str, at: int, body: bytes) -> str:
    """The header's value for ``body`` sent at ``at`` (Unix seconds)."""
    return f"t={at},v1={_digest(secret, at, body)}"


def why_not(secret: str, header: str | None, body: bytes, now: float) -> str:
    """Why the header does not prove that ``body`` was sent by who knows the secret, lately; empty when it does."""
    match = _PATTERN.fullmatch(header or "")
    if match is None:
        return f"{HEADER} is missing or malformed"
    at = int(match[1])
    if not hmac.compare_digest(_digest(secret, at, body), match[2]):
        return f"{HEADER} does not match the body"
    if abs(now - at) > WINDOW_SECONDS:
        return f"{HEADER} is more than {WINDOW_SECONDS} seconds away from now"
    return ""


def _digest(secret: str, at: int, body: bytes) -> str:
    return hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
