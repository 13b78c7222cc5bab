"""The admin page's files. Its colours and its icon are the shoppers' page's; nothing else is shared, and the shop's servers have none of it."""

from collections.abc import Mapping
from pathlib import Path

from flashsale import web

PAGE = "index.html"
SHARED = ("tokens.css", "icon.svg")
FILES: Mapping[str, web.File] = {
    **web.read(Path(__file__).parent / "page"),
    **{name: web.FILES[name] for name in SHARED},
}
"""By name. The page itself is ``PAGE``; under ``/static`` are the others, and it too."""
