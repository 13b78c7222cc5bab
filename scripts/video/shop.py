"""The engine while it is filmed: everything by its own commands, as a person would, and shoppers who know its wire alone."""

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from scripts.video.terminal import COMMAND_WITHIN_S, CommandError, end, quietly

ROOT = Path(__file__).resolve().parents[2]
# Of the caller's settings: where the shop listens, what may be installed, and what the tests say. The rest is the film's.
KEPT = ("FLASH_PORT", "FLASH_OPS_PORT", "FLASH_ADMIN_PORT", "FLASH_APT", "FLASH_TEST_")
BACKENDS = ("asyncio_redis", "gevent_rabbit")
READY_WITHIN_S = 240.0
CROWD_WITHIN_S = 900.0
POLL_S = 0.2
VIEWERS = 20
BUYER_REQUESTS_PER_S = 20
BUYER_LIMIT = 2
PRICE_MINOR = 12_900


def environment(environ: Mapping[str, str], home: Path) -> dict[str, str]:
    """What every command sees: a home of its own, shoppers who name themselves, and nothing else that somebody set."""
    kept = {
        name: value
        for name, value in environ.items()
        if not name.startswith(("FLASH_", "LB_")) or name.startswith(KEPT)
    }
    scripts = Path(sys.executable).parent  # where locust is
    return kept | {
        "FLASH_HOME": str(home),
        "FLASH_AUTH": "off",
        "FLASH_BACKEND": "mixed",
        "PATH": f"{scripts}:{environ.get('PATH', '')}",
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
    }


@dataclass
class Shop:
    """The running one. Its addresses are known once it is up."""

    home: Path
    environment: Mapping[str, str]
    url: str = ""
    admin_url: str = ""
    password: str = field(default="", repr=False)

    async def flash(self, *words: str) -> Any:
        """One command of the launcher's, as JSON."""
        command = [sys.executable, str(ROOT / "flash"), *words, "--json"]
        said = await quietly(command, self.environment, ROOT, COMMAND_WITHIN_S)
        return json.loads(said) if said.strip() else None

    async def is_up(self) -> None:
        """It was started: learn where it is, close its sample sale, and let somebody in at the admin page."""
        found = await self.flash("status")
        self.url, [self.admin_url] = found["addresses"][0], found["admin"]
        await self.flash("sale", "end", found["sale"]["sale"], "--reason", "the film has sales of its own")

    async def admit(self, name: str) -> None:
        """Somebody who may sign in at the admin page."""
        self.password = (await self.flash("admin", "add", name, "--role", "operator", "--generate"))["password"]

    async def open_sale(self, name: str, title: str, units: int, hold_seconds: int) -> str:
        """A new sale with one item; its SKU."""
        closes = datetime.now(UTC) + timedelta(hours=1)
        sku = f"{name}-sneaker"
        why = ("--reason", "a sale to be filmed")
        await self.flash(
            *(
                "sale",
                "create",
                name,
                "--merchant",
                "shop",
                "--name",
                title,
                "--closes",
                closes.isoformat(timespec="seconds"),
            ),
            *("--limit", str(BUYER_LIMIT), "--hold-seconds", str(hold_seconds), *why),
        )
        item = ("--name", "Sneaker, copper", "--price-minor", str(PRICE_MINOR), "--units", str(units))
        await self.flash("sale", "add-item", name, sku, *item, *why)
        await self.flash("sale", "open", name, *why)
        return sku

    async def end_sale(self, name: str) -> None:
        """It is over."""
        await self.flash("sale", "end", name, "--reason", "filmed")

    @contextlib.asynccontextmanager
    async def only(self, backend: str) -> AsyncIterator[None]:
        """The balancer sends shoppers to the servers of this backend alone."""
        servers = [server["name"] for server in (await self.flash("lb", "show"))["servers"]]
        others = [name for name in servers if not name.startswith(f"{backend}-")]
        for name in others:
            await self.flash("lb", "drain", name)
        yield
        for name in others:
            await self.flash("lb", "undrain", name)

    @contextlib.asynccontextmanager
    async def crowd(self, sku: str, shoppers: int, arrival_s: int) -> AsyncIterator[asyncio.Task[dict[str, Any]]]:
        """A crowd that comes from now on; what it was told is the task's result. Raises ``CommandError`` if it says nothing."""
        words = ("--targets", self.url, "--sku", sku, "--shoppers", str(shoppers), "--arrival-seconds", str(arrival_s))
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.load", "--json", "--viewers", str(VIEWERS), *words),
            cwd=ROOT,
            env=dict(self.environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        task = asyncio.create_task(_result(child))
        try:
            yield task
        finally:
            task.cancel()
            await end(child)

    @contextlib.asynccontextmanager
    async def one_buyer(self) -> AsyncIterator[None]:
        """Somebody who asks for the sales, over and over."""

        async def ask() -> None:
            headers = {"Buyer-Id": "ana"}
            async with aiohttp.ClientSession(self.url, headers=headers, timeout=aiohttp.ClientTimeout(10)) as session:
                while True:
                    async with session.get("/sales") as answer:
                        await answer.read()
                    await asyncio.sleep(1 / BUYER_REQUESTS_PER_S)

        task = asyncio.create_task(ask())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def process(self, role: str) -> dict[str, Any]:
        """What is known of the first process of a role."""
        rows: list[dict[str, Any]] = (await self.flash("status"))["processes"]
        return next(row for row in rows if row["role"] == role)

    async def await_another(self, role: str, pid: int) -> float:
        """Wait until another process does the work of a dead one; how many seconds that took. Raises ``CommandError``."""
        began = time.monotonic()
        state = (
            self.home / "up" / "state.json"
        )  # as `status` reads it; a Python of its own would take longer than the restart
        while time.monotonic() - began < READY_WITHIN_S:
            with contextlib.suppress(OSError, ValueError, StopIteration):
                rows = json.loads(await asyncio.to_thread(state.read_text, "utf-8"))["processes"]
                row = next(row for row in rows if row["role"] == role)
                if row["state"] == "ready" and row["pid"] != pid:
                    return time.monotonic() - began
            await asyncio.sleep(POLL_S)
        raise CommandError(f"{role} was not there again within {READY_WITHIN_S:.0f} s")

    async def close(self) -> None:
        """Stop it, if it was started. Raises ``CommandError``: then it may still run, and its home must stay."""
        if not (self.home / "up").exists():
            return
        down = asyncio.create_task(self.flash("down"))
        try:
            await asyncio.shield(down)
        except asyncio.CancelledError:
            await down  # whoever is told to stop only now would kill it, and leave the shop behind
            raise


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else makes a film in this folder meanwhile. Raises ``CommandError`` if somebody does."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however it ends
        except BlockingIOError:
            raise CommandError(f"another film is being made in {folder}. Fix: wait for it, or set FLASH_HOME") from None
        yield
    finally:
        os.close(handle)


async def made_home(folder: Path, environ: Mapping[str, str]) -> Path:
    """A home for the shop with nothing in it but the Python environment that runs us. Raises ``CommandError``."""
    home = folder / "home"
    if home.exists():
        # Of a film that was killed: the shop may run, and its data are not to be pulled from under it.
        await Shop(home, environment(environ, home)).close()
        shutil.rmtree(home)
    home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True)
    (home / "venv").symlink_to(sys.prefix)
    return home


def new_name(backend: str) -> str:
    """Of a sale."""
    return f"{backend.replace('_', '-')}-{secrets.token_hex(3)}"


async def _result(child: asyncio.subprocess.Process) -> dict[str, Any]:
    try:
        async with asyncio.timeout(CROWD_WITHIN_S):
            said, _ = await child.communicate()
    except TimeoutError:
        raise CommandError(f"the shoppers did not come to an end within {CROWD_WITHIN_S:.0f} s") from None
    try:
        found: dict[str, Any] = json.loads(said)
    except ValueError as error:
        raise CommandError(f"the shoppers' process ended with {child.returncode} and said nothing") from error
    return found
