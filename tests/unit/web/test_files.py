"""What the page is made of fits together, and asks for nothing that its policy forbids."""

import re

import pytest

from flashsale.web import FILES, PAGE

SCRIPTS = [name for name in FILES if name.endswith(".js")]


def test_the_page_asks_for_each_module_at_once_and_for_nothing_that_is_not_there() -> None:
    page = FILES[PAGE].body.decode()
    links = re.findall(r'(?:href|src)="/static/([^"]+)"', page)
    assert sorted(links) == sorted(set(FILES) - {PAGE})
    assert not re.search(r"\s(?:style|on\w+)=|<script>|<style|https?://", page), "the policy forbids it"


@pytest.mark.parametrize("name", SCRIPTS)
def test_modules_import_their_neighbours_alone(name: str) -> None:
    script = FILES[name].body.decode()
    for target in re.findall(r'from "([^"]+)"', script):
        assert target.removeprefix("./") in FILES, target
    assert not re.search(r"\beval\b|innerHTML|new Function|https?:", script)
