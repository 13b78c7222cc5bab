"""The page for shoppers: its files, and how each leaves a server. What both backends answer on ``/`` and ``/static/…``.

The files are read once, at import, into a table; a request chooses a row of it and never a path on the disk. Nothing here is
worked on by a build step, so what is read here is what a browser gets.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

PAGE_PATH = "/"
STATIC_PATH = "/static"
PAGE = "index.html"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Everything from this server and nothing from elsewhere, no script or style inside the page, and no string that becomes
# either. A form is never sent by the browser itself.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS = {
    # A page and its modules must be of one version, so each is asked about every time; the answer is mostly a 304.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class File(NamedTuple):
    """A file as it is sent; ``headers`` has all but the length."""

    body: bytes
    headers: Mapping[str, str]

    def is_known(self, if_none_match: str | None) -> bool:
        """Does the client, by its ``If-None-Match``, have this very content? Then the answer is 304 without the body."""
        tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
        return "*" in tags or self.headers["ETag"] in tags


def _read(path: Path) -> File:
    body = path.read_bytes()
    tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    return File(body, MappingProxyType({"Content-Type": _TYPES[path.suffix], "ETag": tag, **_HEADERS}))


def read(folder: Path) -> Mapping[str, File]:
    """The files of a folder that a page may be made of, by name."""
    return MappingProxyType({path.name: _read(path) for path in sorted(folder.iterdir()) if path.suffix in _TYPES})


FILES = read(Path(__file__).parent)
"""By name. The page itself is ``PAGE``; under ``STATIC_PATH`` are the others, and it too."""
