"""A PostgreSQL that only one test knows, so that it may die."""

import asyncio
import contextlib
import secrets
import signal
from pathlib import Path

import asyncpg
import psutil

from flashsale.authority.migrate import migrate
from flashsale.stack import services
from flashsale.stack.processes import dies_with_us
from flashsale.stack.state import Instance
from tests.databases import PASSWORDS, Database, execute, url_for
from tests.patience import PATIENCE_SECONDS


class OwnPostgres:
    """``options`` come after the product's own, as ``-c`` takes them."""

    def __init__(self, home: Path, *options: str) -> None:
        self._instance = Instance(home, "own-postgres")
        program = services.find_postgres_tool("initdb").parent / "postgres"
        service = services._start_postgres(program, self._instance)
        (self._spec,) = service.specs
        self._superuser = service.urls["superuser"]
        self._options = [word for option in options for word in ("-c", option)]
        self._child: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start and wait until it answers."""
        user = self._spec.user
        self._child = await asyncio.create_subprocess_exec(
            *self._spec.command, *self._options, env=dict(self._spec.environment), cwd=self._spec.cwd,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            user=None if user is None else user.uid, group=None if user is None else user.gid,
            extra_groups=None if user is None else [], preexec_fn=dies_with_us(signal.SIGQUIT),
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                with contextlib.suppress(OSError, asyncpg.PostgresError):
                    await execute(self._superuser, "SELECT 1")
                    return
                await asyncio.sleep(0.02)

    async def database(self) -> Database:
        """A fresh migrated database."""
        name = f"test_{secrets.token_hex(6)}"
        owner = url_for(self._superuser, database=name)
        await execute(self._superuser, f"CREATE DATABASE {name}")
        await migrate(owner, PASSWORDS)
        return Database(
            owner, *(url_for(owner, database=name, user=role, password=PASSWORDS[role]) for role in PASSWORDS)
        )

    async def kill(self) -> None:
        """Kill -9, its own children too: one of them might else still finish what it was asked."""
        assert self._child is not None
        main = psutil.Process(self._child.pid)
        main.suspend()  # or it has another child while they are looked for
        children = main.children()
        for process in (main, *children):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await self._child.wait()
        # Its memory is theirs until they are gone, and no other starts beside that.
        async with asyncio.timeout(PATIENCE_SECONDS):
            while any(map(_lives, children)):
                await asyncio.sleep(0.01)

    def suspend(self, name: str) -> None:
        """One of its own processes stands still."""
        assert self._child is not None
        (process,) = (p for p in psutil.Process(self._child.pid).children() if name in " ".join(p.cmdline()))
        process.suspend()

    async def close(self) -> None:
        """Nothing of it is left."""
        if self._child is not None and self._child.returncode is None:
            await self.kill()
        self._instance.remove()


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
