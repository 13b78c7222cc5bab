"""Who is let through to the routes: decisions about a request's head, without the request.

A cookie knows a host and no port, so whatever else serves on this machine's loopback is sent the session's cookie by a browser,
and its pages count as the same site: SameSite=Strict keeps out strangers' pages, and not those. So a change must also come from
this page by its ``Origin`` and carry a token that only this page's answers tell. ``Host`` is compared because a name that a stranger
points at 127.0.0.1 would make the stranger's page the same origin as ours.
"""

import hmac
from typing import NamedTuple
from urllib.parse import urlsplit

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
HTTPS_PORT = 443
CSRF_HEADER = "X-CSRF-Token"
READS = frozenset({"GET", "HEAD"})
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Door(NamedTuple):
    """Where people reach the page: the origins that are ours, and how their browsers keep the session's cookie."""

    origins: frozenset[str]
    is_tls: bool

    @classmethod
    def at(cls, origin: str, port: int) -> "Door":
        """Of FLASH_ADMIN_ORIGIN, or of the loopback addresses with our own port."""
        parts = urlsplit(origin)
        if parts.scheme == "https":
            # As a browser says it, whoever wrote it down: in small letters, without the port that https has anyhow.
            name = parts.netloc.lower().removesuffix(f":{HTTPS_PORT}")
            return cls(frozenset({f"https://{name}"}), is_tls=True)
        return cls(frozenset(f"http://{name}:{parts.port or port}" for name in LOOPBACK_NAMES), is_tls=False)

    @property
    def cookie(self) -> str:
        """Its name. With the prefix a browser takes it from nobody but this very host, by TLS."""
        return "__Host-flash_admin" if self.is_tls else "flash_admin"

    def is_ours(self, host: str | None) -> bool:
        """Was the request sent to a name of ours?"""
        return host is not None and any(urlsplit(origin).netloc == host.lower() for origin in self.origins)

    def is_from_us(self, origin: str | None) -> bool:
        """Did a page of ours send it?"""
        return origin in self.origins


def is_token(given: str | None, kept: str) -> bool:
    """Is it the session's token? In a time that tells nothing of it."""
    return given is not None and hmac.compare_digest(given.encode(), kept.encode())
