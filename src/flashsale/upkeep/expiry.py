"""Ends holds whose deadline has passed, at most 100 ms late. PostgreSQL's clock decides which; ours only when to ask."""

from datetime import UTC, datetime, timedelta

from flashsale.authority.client import Authority, Expired
from flashsale.upkeep.metrics import Metrics
from flashsale.upkeep.road import Road

HOLDS_PER_ROUND_MAX = 200  # bounds how long one sweep keeps a hot stock row from the buyers
PAUSE_SECONDS_MAX = 1.0  # no hold is shorter than this, so none can be made and lapse within one pause
PAUSE_SECONDS_MIN = 0.02  # a due hold that another sweep has locked, or clocks that differ, must not make us spin

PAYMENTS_PER_ROUND_MAX = 200  # as above
PAYMENTS_PAUSE_SECONDS = 0.5  # how late a payment that outlived its hold may be noticed
# A gateway that answers takes less than a second to void; one that does not may not keep a unit from the next buyer longer.
VOID_GRACE = timedelta(seconds=20)
# Longer than one message's own tries take (queues.RETRY_MS), so that a try is asked about again only when they have ended.
RESUME_AFTER = timedelta(seconds=60)


def pause_after(expired: Expired, now: datetime) -> float:
    """Seconds until the next sweep is worth its while; 0 when this one had to leave some behind."""
    if expired.ended >= HOLDS_PER_ROUND_MAX:
        return 0.0
    if expired.next_deadline is None:
        return PAUSE_SECONDS_MAX
    return min(max((expired.next_deadline - now).total_seconds(), PAUSE_SECONDS_MIN), PAUSE_SECONDS_MAX)


class Expiry:
    """One sweep per ``round``."""

    def __init__(self, authority: Authority, metrics: Metrics) -> None:
        self._authority = authority
        self._metrics = metrics

    async def round(self) -> float:
        """End what is due; returns the seconds to wait. Raises ``AuthorityUnavailable``."""
        expired = await self._authority.expire_due(HOLDS_PER_ROUND_MAX)
        self._metrics.expired.inc(expired.ended)
        return pause_after(expired, datetime.now(UTC))


class PaymentExpiry:
    """One sweep over payments per ``round``: ends what outlived its hold, and asks again about what was left open."""

    def __init__(self, authority: Authority, road: Road, metrics: Metrics) -> None:
        self._authority = authority
        self._road = road
        self._metrics = metrics

    async def round(self) -> float:
        """Returns the seconds to wait. Raises ``AuthorityUnavailable``."""
        open_for = await self._road.open_for()
        self._metrics.road_open_seconds.set(open_for.total_seconds())
        expired = await self._authority.expire_payments(PAYMENTS_PER_ROUND_MAX, VOID_GRACE, open_for)
        resumed = await self._authority.resume_payments(PAYMENTS_PER_ROUND_MAX, RESUME_AFTER)
        self._metrics.payments_voiding.inc(expired.voiding)
        self._metrics.payments_resumed.inc(resumed)
        self._metrics.expired.inc(expired.ended)
        is_full = max(expired.voiding + expired.ended, resumed) >= PAYMENTS_PER_ROUND_MAX
        return PAUSE_SECONDS_MIN if is_full else PAYMENTS_PAUSE_SECONDS
