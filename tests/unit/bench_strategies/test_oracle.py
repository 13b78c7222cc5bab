"""The lab's oracle: every planted wrong is named, each by its own name, and what is right is not."""

import pytest

from benchmarks.strategies.oracle import KINDS, Found, Kind, Ledger, Told, judge

YES, NO, NOTHING = Told.SOLD, Told.REFUSED, Told.UNKNOWN


def of(stock: int, told: dict[str, Told], *recorded: str, last: dict[str, Told] | None = None, then: str = "") -> Found:
    """A trial. ``then``: who is recorded beside the others after the last call."""
    strangers = last or {"last": NO}
    return judge(Ledger(stock, told | strangers, recorded, [*recorded, *then.split()], frozenset(strangers)))


@pytest.mark.parametrize(
    ("found", "wrongs"),
    [
        (of(1, {"a": YES, "b": NO}, "a"), {}),
        (of(2, {"a": YES}, "a", last={"x": YES, "y": NO}, then="x"), {}),  # nobody was refused before the last call
        (of(1, {"a": YES, "b": YES}, "a", "b"), {Kind.OVERSOLD: 1}),
        (of(1, {"a": YES, "b": NOTHING}, "a", "b"), {Kind.OVERSOLD: 1}),  # nobody was told, and the books say it
        (
            of(1, {"a": YES, "b": YES}, "b"),
            {Kind.OVERSOLD: 1, Kind.LOST: 1},
        ),  # the books forgot, and who was told did not
        (of(1, {"a": YES}, "a", last={"x": YES, "y": NO}, then="x"), {Kind.OVERSOLD: 1}),  # sold at the last call
        (of(1, {"a": NOTHING, "b": NO}, last={"x": YES, "y": NO}, then="x"), {Kind.UNDERSOLD: 1}),
        (of(1, {"a": NOTHING, "b": NO}), {Kind.UNDERSOLD: 1, Kind.LEAKED: 1}),
        (
            of(5, {"a": YES, "b": NO}, "a"),
            {Kind.UNDERSOLD: 1, Kind.LEAKED: 4},
        ),  # no more than were refused could have had one
        (of(2, {"a": YES, "b": NO}, "a", "a"), {Kind.DUPLICATE: 1}),
        (of(1, {"a": YES}, "a", "a"), {Kind.DUPLICATE: 1, Kind.OVERSOLD: 1}),
        (of(1, {"a": NO}, "a"), {Kind.PHANTOM: 1}),
        (of(1, {"a": NO}, "nobody"), {Kind.PHANTOM: 1}),  # never asked
        (of(2, {"a": YES, "b": YES}, "a"), {Kind.LOST: 1}),
    ],
)
def test_every_wrong_has_its_name(found: Found, wrongs: dict[Kind, int]) -> None:
    assert found.wrongs == wrongs


def test_an_answer_that_was_lost_is_counted_and_is_no_wrong() -> None:
    assert of(2, {"a": NOTHING, "b": NOTHING}, "a", last={"x": YES, "y": NO}, then="x") == Found({}, 1)


def test_without_a_refusal_at_the_last_call_nothing_is_said_to_be_leaked() -> None:
    assert judge(Ledger(3, {"a": NO, "x": YES}, [], ["x"], frozenset({"x"}))).wrongs == {Kind.UNDERSOLD: 1}


def test_every_kind_is_explained() -> None:
    assert list(KINDS) == list(Kind)
