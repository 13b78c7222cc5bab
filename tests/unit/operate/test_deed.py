"""Under which key something is done by hand, and who learns of it when."""

import argparse

import pytest

from flashsale.operate.context import Deed, add_deed_options, deed


def parse(*words: str) -> Deed:
    parser = argparse.ArgumentParser()
    add_deed_options(parser)
    return deed(parser.parse_args(["--operator", "ana", "--reason", "why", *words]))


def test_a_new_key_is_told_before_anything_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    done = parse()
    told = capsys.readouterr()
    assert told.err == f"flash: under key {done.key}\n"
    assert told.out == "", "which is for the result"


def test_the_key_that_was_told_can_be_given_and_is_taken_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(200):
        key = parse().key
        capsys.readouterr()
        assert parse("--key", key) == Deed("ana", "why", key)
        assert capsys.readouterr().err == ""
