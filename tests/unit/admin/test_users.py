"""The file of those who may sign in: what the words do to it, and that a reader follows it."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from flashsale.admin import passwords, users
from flashsale.admin.users import Role, Users, UsersError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users.json"


def words(path: Path, *given: str) -> None:
    parser = argparse.ArgumentParser()
    users.options(parser)
    users.run(parser.parse_args(given), path)


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_somebody_new_can_sign_in_with_the_password_that_was_shown(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words(path, "add", "olga", "--role", "operator", "--generate", "--json")
    password = told(capsys)["password"]
    olga = Users(path).find("olga")
    assert olga is not None
    assert olga.role is Role.OPERATOR
    assert password not in path.read_text()
    assert olga.password.startswith("$argon2id$")
    assert passwords.matches(olga.password, password)
    assert not passwords.matches(olga.password, password + "x")
    assert path.stat().st_mode & 0o777 == 0o600


def test_nobody_has_no_password(path: Path) -> None:
    assert Users(path).find("olga") is None
    assert not passwords.matches(None, "anything")
    assert not passwords.matches("no hash", "anything")


def test_a_reader_follows_every_change(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = Users(path)
    words(path, "add", "olga", "--role", "viewer", "--generate")
    first = reader.find("olga")
    assert first is not None
    assert first.role is Role.VIEWER
    words(path, "role", "olga", "--role", "operator")
    second = reader.find("olga")
    assert second == first._replace(role=Role.OPERATOR)
    words(path, "password", "olga", "--generate")
    third = reader.find("olga")
    assert third is not None
    assert (third.role, third.password != first.password) == (Role.OPERATOR, True)
    capsys.readouterr()
    words(path, "list", "--json")
    assert told(capsys) == [{"name": "olga", "role": "operator"}]
    words(path, "remove", "olga")
    assert reader.find("olga") is None


def test_what_does_not_fit_is_refused_and_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words(path, "add", "olga", "--role", "viewer", "--generate")
    before = path.read_text()
    with pytest.raises(UsersError, match="there is a user olga"):
        words(path, "add", "olga", "--role", "operator", "--generate")
    for word in (("remove", "jon"), ("role", "jon", "--role", "viewer"), ("password", "jon", "--generate")):
        with pytest.raises(UsersError, match="there is no user jon"):
            words(path, *word)
    with pytest.raises(UsersError, match="--generate"):
        words(path, "add", "jon", "--role", "viewer")  # no terminal
    monkeypatch.setattr(users, "USERS_MAX", 1)
    with pytest.raises(UsersError, match="1 users already"):
        words(path, "add", "jon", "--role", "viewer", "--generate")
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("typed", "why"), [(["short", "short"], "12 to 128"), (["a long password", "a long passwort"], "two different")]
)
def test_a_password_that_is_typed_is_long_enough_and_typed_twice(
    path: Path, monkeypatch: pytest.MonkeyPatch, typed: list[str], why: str
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    answers = iter(typed)
    monkeypatch.setattr("getpass.getpass", lambda _: next(answers))
    with pytest.raises(UsersError, match=why):
        words(path, "add", "olga", "--role", "viewer")
    assert not path.exists()


def test_a_password_that_is_typed_twice_lets_in(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda _: "a long password")
    words(path, "add", "olga", "--role", "viewer")
    olga = Users(path).find("olga")
    assert olga is not None
    assert passwords.matches(olga.password, "a long password")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"olga": {}}', '{"olga": {"role": "king", "password": "x"}}', "\xff"])
def test_a_damaged_file_lets_nobody_in(path: Path, text: str) -> None:
    words(path, "add", "olga", "--role", "viewer", "--generate")
    reader = Users(path)
    assert reader.find("olga") is not None
    path.write_text(text, encoding="latin-1")
    for _ in range(2):
        with pytest.raises(UsersError):
            reader.find("olga")
    path.unlink()
    assert reader.find("olga") is None


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "olga\n", "é"])
def test_a_name_is_one_that_the_record_takes(path: Path, name: str) -> None:
    with pytest.raises(SystemExit):
        words(path, "add", name, "--role", "viewer", "--generate")
