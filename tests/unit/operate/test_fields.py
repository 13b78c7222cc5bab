"""What a document of JSON may give to the fields of a deed: the same as the command line, and nothing that only looks like it."""

from typing import Any

import pytest

from flashsale.operate.fields import NAME, TEXT, TIME, Field, FieldError, one_of, read, whole

FIELDS = (
    Field("sale", NAME),
    Field("units", whole(1, 100)),
    Field("name", TEXT, required=False),
    Field("opens", TIME, required=False),
    Field("state", one_of("OPEN", "A+B"), required=False, default="OPEN"),
)
RIGHT: dict[str, Any] = {"sale": "s", "units": 5}


def test_what_is_left_out_is_its_default() -> None:
    assert read(FIELDS, RIGHT) == {"sale": "s", "units": 5, "name": None, "opens": None, "state": "OPEN"}
    assert read(FIELDS, RIGHT | {"name": None, "state": "A+B"})["state"] == "A+B"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"sale": None}, "sale is missing"),
        ({"sale": 5}, "sale is not 1 to 64"),
        ({"sale": ""}, "sale is not 1 to 64"),
        ({"sale": "é"}, "sale is not 1 to 64"),
        ({"units": "5"}, "units is not a whole number from 1 to 100"),
        ({"units": 5.0}, "units is not"),
        ({"units": True}, "units is not"),
        ({"units": 0}, "units is not"),
        ({"units": 101}, "units is not"),
        ({"name": "a\u202eb"}, "name is not 1 to 200 printable"),
        ({"opens": "2026-11-27"}, "opens is not a time with its zone"),
        ({"state": "AAB"}, "state is not OPEN"),
        ({"other": 1}, "'other' is not asked for"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(FieldError, match=why.replace("+", r"\+")):
        read(FIELDS, RIGHT | wrong)
