"""The argument and its holes: none may be shown, none may be forgotten."""

import pytest

from benchmarks.report.narrative import Given, NarrativeError, compose

TABLE = {"title": "T", "header": ["a"], "rows": [["1"]], "note": "", "numbers": []}
DRAWN = [{"kind": "forest", "name": "forest", "title": "F", "caption": "c", "alt": "a"}]
GIVEN = Given(
    {"who": "asyncio_redis", "empty": "", "none": None},
    {"some": ["**one** of two"]},
    {"t": TABLE, "bare": {**TABLE, "rows": []}},
    DRAWN,
    {"forest", "lab"},
)


def test_sentences_are_filled_and_marked_up() -> None:
    (block,) = compose("**{{who}}** is *said* to\nbe `{{ who }}`.", GIVEN)
    assert block == {
        "kind": "para",
        "spans": [
            ["bold", "asyncio_redis"], ["text", " is "], ["emphasis", "said"], ["text", " to be "], ["code", "asyncio_redis"], ["text", "."],
        ],
    }  # fmt: skip


def test_headings_lists_tables_and_figures() -> None:
    blocks = compose(
        "## On {{who}}\n\n- one\n  goes on\n- two\n\n{{table:t}}\n\n{{list:some}}\n\n{{figure:forest}}", GIVEN
    )
    assert [block["kind"] for block in blocks] == ["heading", "list", "table", "list", "figure"]
    assert blocks[0]["text"] == "On asyncio_redis"
    assert blocks[1]["items"] == [[["text", "one goes on"]], [["text", "two"]]]
    assert blocks[3]["items"] == [[["bold", "one"], ["text", " of two"]]]
    assert (blocks[4]["name"], blocks[4]["figure_kind"]) == ("forest", "forest")


def test_what_a_run_has_nothing_for_is_left_out() -> None:
    blocks = compose("before\n\n{{figure:lab}}\n\n{{table:bare}}\n\nafter", GIVEN)
    assert [block["spans"] for block in blocks] == [[["text", "before"]], [["text", "after"]]]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{{wo}}", r"\{\{wo\}\} is not known"),
        ("{{empty}}", r"\{\{empty\}\} is filled with nothing"),
        ("{{none}}", r"\{\{none\}\} is filled with nothing"),
        ("# {{wo}}", r"\{\{wo\}\} is not known"),
        ("- {{wo}}", r"\{\{wo\}\} is not known"),
        ("{{table:u}}", r"\{\{table:u\}\} is not a table"),
        ("{{figure:graph}}", r"\{\{figure:graph\}\} is not a figure"),
        ("{{list:none}}", r"\{\{list:none\}\} is not a list"),
        ("text {{table:t}} in it", r"\{\{table:t\}\} is not known"),
        ("{{who", "a hole is not closed"),
        ("who}}", "a hole is not closed"),
    ],
)
def test_a_hole_that_nothing_fills_is_named(text: str, named: str) -> None:
    with pytest.raises(NarrativeError, match=named):
        compose(text, GIVEN)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(NarrativeError, match=r"one\}\}.*two\}\}"):
        compose("{{one}}\n\n{{two}}", GIVEN)
