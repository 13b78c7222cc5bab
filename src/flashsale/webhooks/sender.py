"""One delivery: a POST signed as Standard Webhooks has it, to the address of the configuration and nowhere else.

webhook-id: the event's id    webhook-timestamp: Unix seconds
webhook-signature: v1,<base64 of HMAC-SHA256(secret, "<id>.<timestamp>.<body>")>
"""

import base64
import hmac
import ipaddress
import time
from urllib.parse import urlsplit

import aiohttp

from flashsale.contract import events

SECRET_PREFIX = "whsec_"  # noqa: S105 - how a secret begins, and not one
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 24, 64
DEADLINE_SECONDS = 10.0  # for one delivery, connecting and the answer's head included; its body is not read


class Undelivered(Exception):  # noqa: N818 - a state of the world, not a fault of the caller
    """The receiver did not take it; the text says why. It may have taken it all the same."""


def parse_secret(text: str) -> bytes:
    """The signing key of ``whsec_<base64>``. Raises ``ValueError``, without the secret in it."""
    try:
        key = base64.b64decode(text.strip().removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not text.startswith(SECRET_PREFIX) or not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise ValueError(f"a secret is {SECRET_PREFIX} and base64 of {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes")
    return key


def parse_url(text: str) -> str:
    """Where to deliver: https, or http on this machine, because what is told is not for those on the way. Raises ``ValueError``."""
    parts = urlsplit(text)
    if not parts.hostname or parts.username is not None or parts.fragment or parts.port == 0:
        raise ValueError("an address is https://host[:port]/path, without a name, a password or a fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise ValueError("only https leaves this machine; http is for a loopback address")
    return text


def sign(key: bytes, event: str, at: int, body: bytes) -> str:
    """The value of ``webhook-signature`` for a delivery at ``at`` (Unix seconds)."""
    digest = hmac.digest(key, f"{event}.{at}.".encode() + body, "sha256")
    return f"v1,{base64.b64encode(digest).decode()}"


class Sender:
    """Delivers to one address, over at most ``connections`` at once."""

    def __init__(self, url: str, key: bytes, connections: int, deadline_s: float = DEADLINE_SECONDS) -> None:
        self._url = parse_url(url)
        self._key = key
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections),
            timeout=aiohttp.ClientTimeout(deadline_s),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        await self._session.close()

    async def deliver(self, event: str, body: bytes) -> None:
        """One try. Raises ``Undelivered`` for anything but a 2xx within the deadline; a redirect is not followed."""
        at = int(time.time())
        headers = {
            "Content-Type": events.CONTENT_TYPE,
            "webhook-id": event,
            "webhook-timestamp": str(at),
            "webhook-signature": sign(self._key, event, at, body),
        }
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                if not 200 <= answer.status < 300:
                    raise Undelivered(f"the receiver answered {answer.status}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Undelivered(str(error) or type(error).__name__) from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
