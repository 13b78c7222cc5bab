"""The files of the admin and the operations page, and of the chart library that is kept with them, as it came. Colours, icon, clock
and announcer are the shoppers' page's; nothing else is shared, and the shop's servers have none of it.
"""

from collections.abc import Mapping
from pathlib import Path

from flashsale import web

PAGE = "index.html"
SHARED = ("tokens.css", "icon.svg", "announcer.js", "clock.js")
PAGES = Path(__file__).parent / "page"
CHARTS = PAGES / "vendor" / "uplot"
FILES: Mapping[str, web.File] = {
    **web.read(PAGES),
    **web.read(CHARTS),
    **{name: web.FILES[name] for name in SHARED},
}
"""By name. The page itself is ``PAGE``; under ``/static`` are the others, and it too."""
