"""What `flash sale` understands, and what it calls bad usage before anything is asked of the database."""

import argparse
from datetime import UTC, datetime

import pytest

from flashsale.operate import sale

WHY = ("--reason", "because")
TERMS = ("--limit", "2", "--hold-seconds", "60")
CREATE = ("create", "s", "--merchant", "m", "--name", "n", *TERMS, "--closes", "2026-11-27T18:00:00Z", *WHY)
ITEM = ("add-item", "s", "a", "--name", "n", "--price-minor", "0", "--units", "1", *WHY)


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    sale.options(parser)
    return parser.parse_args(words)


def test_times_carry_their_zone() -> None:
    assert parse(*CREATE).closes == datetime(2026, 11, 27, 18, tzinfo=UTC)
    assert parse(*CREATE, "--opens", "2026-11-27T19:00:00+02:00").opens == datetime(2026, 11, 27, 17, tzinfo=UTC)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "required: what"),
        (("burn", "s"), "invalid choice"),
        (("open", "s"), "required: --reason"),
        (("open", "s p", *WHY), "'s p' is not 1 to 64"),
        (("open", "s" * 65, *WHY), "is not 1 to 64"),
        (("show",), "required: SALE"),
        ((*CREATE, "--opens", "2026-11-27T18:00:00"), "is not a time with its zone"),
        ((*CREATE, "--opens", "tomorrow"), "is not a time with its zone"),
        ((*CREATE, "--currency", "eur"), "is not three letters"),
        ((*CREATE, "--limit", "0"), "is not a whole number from 1 to 1000000"),
        ((*CREATE, "--hold-seconds", "86401"), "is not a whole number from 1 to 86400"),
        ((*CREATE, "--name", " "), "printable"),
        ((*CREATE, "--name", "a\nb"), "printable"),
        ((*ITEM, "--units", "-1"), "is not a whole number from 0"),
        ((*ITEM, "--price-minor", "1.5"), "is not a whole number from 0"),
        ((*ITEM, "--price-minor", "1" * 5000), "is not a whole number from 0"),
        (("restock", "a", "0", *WHY), "is not a whole number from 1"),
        (("clone", "s", "t", "--suffix", "/", "--closes", "2026-11-27T18:00:00Z", *WHY), "is not 1 to 32"),
    ],
)
def test_bad_usage_names_what_is_allowed(words: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(*words)
    assert ended.value.code == 2
    assert why in capsys.readouterr().err
