"""Who may sign in: a file of names, roles and hashed passwords, written by ``flash admin`` and read by the admin page.

A file and not a table: a backup of the books carries nobody's password, a restore lets nobody in again who was removed since, and
no database role can read it. Other packages are imported where they are used, because the launcher parses these options.
"""

import argparse
import contextlib
import fcntl
import getpass
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}", re.ASCII)  # as the record of operations takes it
PASSWORD_CHARS_MIN, PASSWORD_CHARS_MAX = 12, 128
GENERATED_BYTES = 15
USERS_MAX = 1000
FILE_BYTES_MAX = 1024 * 1024


class Role(StrEnum):
    """What who signs in may do."""

    VIEWER = "viewer"  # look
    OPERATOR = "operator"  # and change


class User(NamedTuple):
    """One who may sign in; ``password`` is hashed."""

    name: str
    role: Role
    password: str


class UsersError(Exception):
    """Why the file is not as it should be, or was not changed."""


class Users:
    """The file as it is now: read again once it has changed, so that a removal takes effect with the next request."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: tuple[int, int, int] | None = None
        self._users: Mapping[str, User] = {}

    def find(self, name: str) -> User | None:
        """The user of this name. Raises ``UsersError`` when the file is there and cannot be read: then nobody comes in."""
        try:
            seen = self._path.stat()
        except FileNotFoundError:
            self._mark, self._users = None, {}
            return None
        mark = (seen.st_ino, seen.st_mtime_ns, seen.st_size)
        if mark != self._mark:
            self._mark, self._users = None, load(self._path)
            self._mark = mark
        return self._users.get(name)


def load(path: Path) -> dict[str, User]:
    """Everybody, by name; nobody, if there is no file. Raises ``UsersError``."""
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX)
        rows = json.loads(text)  # one that is cut is no JSON
        return {name: User(name, Role(row["role"]), str(row["password"])) for name, row in rows.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsersError(f"{path} cannot be read: {error}") from error


def options(parser: argparse.ArgumentParser) -> None:
    """What may be done."""
    words = parser.add_subparsers(metavar="what", required=True, dest="what")
    for word, text in (
        ("list", "who may sign in, and as what"),
        ("add", "somebody new"),
        ("role", "another role for somebody"),
        ("password", "another password for somebody, which ends their sessions"),
        ("remove", "somebody may not sign in any more; ends their sessions"),
    ):
        sub = words.add_parser(word, help=text, description=text, allow_abbrev=False)
        if word != "list":
            sub.add_argument("name", type=_name)
        if word in {"add", "role"}:
            sub.add_argument("--role", required=True, choices=tuple(Role), help="viewer looks; operator changes too")
        if word in {"add", "password"}:
            sub.add_argument(
                "--generate", action="store_true", help="make a password and print it once, instead of asking"
            )
        sub.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="machine-readable result on stdout"
        )


def run(parsed: argparse.Namespace, path: Path) -> None:
    """Do it, and print what came of it. Raises ``UsersError``."""
    as_json = getattr(parsed, "json", False)
    if parsed.what == "list":
        rows = [{"name": user.name, "role": user.role} for user in load(path).values()]
        print(
            json.dumps(rows) if as_json else "\n".join(f"{row['name']}  {row['role']}" for row in rows) or "nobody yet"
        )
        return
    password = None
    if parsed.what in {"add", "password"}:
        password = secrets.token_urlsafe(GENERATED_BYTES) if parsed.generate else _asked()
    with _held(path):
        users = load(path)
        if (parsed.what == "add") == (parsed.name in users):
            raise UsersError(f"there is {'a' if parsed.what == 'add' else 'no'} user {parsed.name}")
        _change(users, parsed, password)
        _write(path, users)
    shown = password if password is not None and parsed.generate else None
    if as_json:
        print(json.dumps({"name": parsed.name} | ({"password": shown} if shown else {})))
    else:
        print(f"done: {parsed.what} {parsed.name}" + (f"; the password, shown this once: {shown}" if shown else ""))


def _change(users: dict[str, User], parsed: argparse.Namespace, password: str | None) -> None:
    if parsed.what == "remove":
        del users[parsed.name]
        return
    if len(users) >= USERS_MAX and parsed.name not in users:
        raise UsersError(f"there are {USERS_MAX} users already")
    role = Role(parsed.role) if parsed.what in {"add", "role"} else users[parsed.name].role
    if password is None:
        hashed = users[parsed.name].password
    else:
        from flashsale.admin import passwords  # noqa: PLC0415 - needs third-party packages

        hashed = passwords.hashed(password)
    users[parsed.name] = User(parsed.name, role, hashed)


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 to 64 of A-Z a-z 0-9 . _ @ -")
    return text


def _asked() -> str:
    if not sys.stdin.isatty():
        raise UsersError("there is no terminal to ask for the password at; --generate makes one")
    password = getpass.getpass("password: ")
    if not PASSWORD_CHARS_MIN <= len(password) <= PASSWORD_CHARS_MAX:
        raise UsersError(f"a password has {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters")
    if getpass.getpass("once more: ") != password:
        raise UsersError("these were two different passwords")
    return password


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    # Two commands at once would each write the file as they read it.
    path.parent.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _write(path: Path, users: Mapping[str, User]) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor, opened with its mode
        json.dump(
            {user.name: {"role": user.role, "password": user.password} for user in users.values()}, file, indent=2
        )
        file.flush()
        os.fsync(handle)
    beside.replace(path)
