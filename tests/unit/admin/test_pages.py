"""What the pages are made of fits together, asks for nothing that their policy forbids, and what came from elsewhere is as it came."""

import hashlib
import re

import pytest

from flashsale.admin.pages import CHARTS, FILES

PAGES = {"index.html": "admin.js", "operations.html": "operations.js"}
OURS = [name for name in FILES if name.endswith(".js") and not (CHARTS / name).exists()]


def imported(name: str) -> set[str]:
    """By this module, and by those."""
    script = FILES[name].body.decode()
    direct = {target.removeprefix("./") for target in re.findall(r'from "([^"]+)"', script)}
    return direct.union(*map(imported, direct)) if direct else set()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_for_each_module_at_once_and_for_nothing_that_is_not_there(name: str) -> None:
    page = FILES[name].body.decode()
    assert set(re.findall(r'modulepreload" href="/static/([^"]+)"', page)) == imported(PAGES[name])
    assert set(re.findall(r'(?:href|src)="/static/([^"]+)"', page)) <= set(FILES)
    assert not re.search(r"\s(?:style|on\w+)=|<script>|<style|https?://", page), "the policy forbids it"


def test_no_module_is_of_neither_page() -> None:
    assert set(OURS) - set().union(*map(imported, PAGES.values())) == set(PAGES.values())


@pytest.mark.parametrize("name", OURS)
def test_a_module_makes_nothing_of_strings_and_asks_nobody_else(name: str) -> None:
    assert not re.search(r"\beval\b|innerHTML|new Function|https?:(?!//www.w3.org/2000/svg)", FILES[name].body.decode())


def test_the_chart_library_is_as_it_came_and_its_licence_with_it() -> None:
    sums = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(CHARTS.iterdir())
        if path.name != "SHA256SUMS"
    )
    assert sums == (CHARTS / "SHA256SUMS").read_text(encoding="utf-8")
    assert "The MIT License" in (CHARTS / "LICENSE").read_text(encoding="utf-8")
    assert "innerHTML" not in FILES["uPlot.esm.js"].body.decode(), "the policy forbids it"
