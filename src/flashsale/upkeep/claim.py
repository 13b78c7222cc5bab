"""Keeps this process's claim to the gates of its database, and takes it again when PostgreSQL was away."""

from flashsale.authority.claim import Claim
from flashsale.authority.client import AuthorityUnavailable

CHECK_SECONDS = 1.0  # a lost claim is taken again before anybody has started a second instance
REFUSED = (
    "another instance keeps this database's gates in another Redis: stop it (`./flash down`), "
    "or give both the same FLASH_REDIS_URL"
)


class ClaimKeeper:
    """Takes or checks the claim, once per ``round``."""

    def __init__(self, postgres_url: str, redis_url: str) -> None:
        self._urls = (postgres_url, redis_url)
        self._claim: Claim | None = None

    async def round(self) -> float:
        """See that the claim stands; returns the seconds to wait. Raises ``AuthorityUnavailable`` or ``ClaimRefused``."""
        if self._claim is None:
            self._claim = await Claim.take(*self._urls)
        try:
            await self._claim.check()
        except AuthorityUnavailable:
            self.close()
            raise
        return CHECK_SECONDS

    def close(self) -> None:
        """Give the claim up."""
        if self._claim is not None:
            self._claim.close()
        self._claim = None
