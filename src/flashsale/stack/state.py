# What the launcher remembers of one instance (`up`, `demo`, `test`), under FLASH_HOME/<instance>. Law: everything that
# holds a secret is 0600 and is replaced atomically, so that a reader sees the old file or the new one.
from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flashsale.settings import Settings
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.processes import Identity

PASSWORDS = (
    "postgres_superuser",
    "postgres_owner",
    "postgres_app",
    "postgres_auditor",
    "postgres_operator",
    "postgres_admin",
    "redis",
    "rabbitmq",
    "erlang_cookie",
    "webhooks",
)
# Whoever asks for the holder takes the lock for a moment, so one refusal proves nothing.
LOCK_TRIES = 5
LOCK_PAUSE_S = 0.05
# Only a directory made here may be removed as data, whatever a file on disk says.
ELSEWHERE = Path("/var/lib/flashsale")


class Instance:
    """One instance's directory and what is kept in it."""

    def __init__(self, home: Path, name: str) -> None:
        self.name = name
        self.directory = home / name
        self.logs = self.directory / "logs"
        self._home = home
        self._state = self.directory / "state.json"
        self._secrets = self.directory / "secrets.json"
        self._lock = self.directory / "lock"

    def create(self) -> None:
        # Root starts PostgreSQL as another user, who must be able to pass through; what is inside stays closed.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        for directory in (self._home, self.directory):
            directory.mkdir(mode=mode, parents=True, exist_ok=True)
            directory.chmod(mode)
        self.logs.mkdir(mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the instance. Raises StackError, naming the holder, if another process has it."""
        self.create()
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _taken(handle, LOCK_TRIES):
                holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
                raise StackError(
                    f"the instance {self.name!r} is in use by process {holder}; "
                    + ("`./flash down` ends it" if self.name == "up" else "wait for it to end"),
                    Exit.USAGE,
                )
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(handle)

    def holder(self) -> int | None:
        """The pid that holds the instance now, None if nobody does."""
        try:
            handle = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if _taken(handle, 1):
                return None
            text = os.pread(handle, 32, 0).decode(errors="replace").strip()
            return int(text) if text.isdecimal() else 0
        finally:
            os.close(handle)

    def read(self) -> dict[str, Any]:
        """The last recorded state; empty if there is none."""
        return _read_json(self._state)

    def write(self, state: Mapping[str, Any]) -> None:
        write_private(self._state, json.dumps(state, indent=2))

    def passwords(self) -> dict[str, str]:
        """The instance's random passwords; missing ones are made and kept."""
        kept = _read_json(self._secrets)
        made = {name: kept.get(name) or secrets.token_urlsafe(24) for name in PASSWORDS}
        if made != kept:
            self.create()
            write_private(self._secrets, json.dumps(made, indent=2))
        return made

    def data(self, service: str) -> Path:
        """The service's own directory, in the instance or where an earlier start had to put it."""
        pointer = self.directory / f"{service}.elsewhere"
        if pointer.exists():
            elsewhere = Path(pointer.read_text(encoding="utf-8").strip())
            if elsewhere.parent != ELSEWHERE:
                raise StackError(f"{pointer} does not point into {ELSEWHERE}; remove it", Exit.USAGE)
            return elsewhere
        return self.directory / service

    def move_data(self, service: str) -> Path:
        """Give the service a directory outside the instance and remember where."""
        elsewhere = ELSEWHERE / f"{self.name}-{service}-{secrets.token_hex(6)}"
        write_private(self.directory / f"{service}.elsewhere", str(elsewhere))
        return elsewhere

    def forget(self, services: Iterable[str]) -> None:
        """Delete the services' data; passwords and logs stay. The caller holds the lock, and nothing runs."""
        for service in services:
            shutil.rmtree(self.data(service), ignore_errors=True)
            (self.directory / f"{service}.elsewhere").unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete everything of the instance. The caller holds no lock and has checked `holder`."""
        self.forget(pointer.stem for pointer in list(self.directory.glob("*.elsewhere")))
        shutil.rmtree(self.directory)

    @property
    def recorded(self) -> list[Identity]:
        """Every process the last supervisor recorded and did not see end, itself excepted."""
        return [Identity.recalled(row) for row in self.read().get("processes", []) if row.get("pid")]

    @property
    def supervisor(self) -> Identity | None:
        row = self.read().get("supervisor")
        return Identity.recalled(row) if row else None


def admin_socket(instance: Instance, index: int) -> Path:
    """Where the instance's balancer of this number is asked to change something."""
    return instance.directory / f"balancer-{index}.socket"


def instances(home: Path) -> list[Instance]:
    """The instances that left something in `home`."""
    return [Instance(home, path.parent.name) for path in sorted(home.glob("*/lock"))]


def jwt_secret(settings: Settings) -> str:
    """The secret given, or the one kept in FLASH_HOME, made at first need."""
    if settings.jwt_secret:
        return settings.jwt_secret
    path = settings.home / "jwt_secret"
    if not path.exists():
        settings.home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        write_private(path, secrets.token_urlsafe(48))
    secret = path.read_text(encoding="ascii").strip()
    if re.fullmatch(r"\S{32,}", secret) is None:
        raise StackError(f"{path} does not hold a secret; remove it and a new one is made", Exit.USAGE)
    return secret


def admin_users(settings: Settings) -> Path:
    """The file of those who may sign in to the admin page: the one that is named, else one in FLASH_HOME."""
    return settings.admin_users if settings.given("admin_users") else settings.home / "admin_users.json"


def progress_file(settings: Settings) -> Path:
    """Where a comparison that runs writes how far it is."""
    return settings.home / "benchmarks" / "running.json"


def _taken(handle: int, tries: int) -> bool:
    for number in range(tries):
        if number:
            time.sleep(LOCK_PAUSE_S)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def write_private(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(handle, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor, opened with its mode
        file.write(text)
    beside.replace(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StackError(f"{path} is damaged ({error}); `./flash clean` starts afresh", Exit.USAGE) from error
    return found if isinstance(found, dict) else {}
