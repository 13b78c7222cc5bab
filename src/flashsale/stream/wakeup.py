"""The message that makes hubs read PostgreSQL now instead of at their next beat. It wakes and never proves.

Whoever brings ledger rows to the gates publishes which SKUs moved, one message a round. What is lost, late or made up costs
a beat's delay or a reading too many, so nothing is acknowledged and anybody may listen.
"""

from collections.abc import Collection

CHANNEL = "flash:moved"
SKUS_MAX = 256  # more than a round moves but in a catalogue-wide change; then every hub reads what it shows
ANY = "*"  # no SKU
BYTES_MAX = SKUS_MAX * 65


def encode(skus: Collection[str]) -> str:
    """The message for these SKUs."""
    return " ".join(sorted(skus)) if len(skus) <= SKUS_MAX else ANY


def decode(message: object) -> frozenset[str] | None:
    """The SKUs that moved; None when that may be any. Anything unreadable is taken for "any": reading once is harmless."""
    if isinstance(message, bytes) and len(message) <= BYTES_MAX:
        words = message.decode("ascii", "replace").split()
        if ANY not in words:
            return frozenset(words)
    return None
