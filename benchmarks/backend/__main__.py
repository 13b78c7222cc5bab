"""``python -m benchmarks.backend asyncio_redis``: started by ``./flash bench``. Progress on stderr, one JSON line on stdout.

Law 1: all contestants run in every round, one after the other, and ratios are taken within a round: the machine's slow minute
is everybody's. Law 2: an answer that is not the one asked for makes the run worthless, so it ends it.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.backend import load, peers
from benchmarks.backend.report import Cell, Effort, report
from benchmarks.backend.servers import OURS, Contestant, Server, ask, running
from benchmarks.backend.shop import GONE, SCENARIOS, Scenario, open_sale, write_identities

AUTHS = ("off", "jwt")
GATE_SECONDS = 30.0  # until the gate of a new sale is made


FULL, QUICK = Effort(5, 5, 2), Effort(1, 1, 1)


async def main() -> int:
    options = _parse(sys.argv[1:])
    effort = QUICK if options.quick else FULL
    environment = dict(os.environ)
    contestants, left_out = peers.find(options.home, _say)
    await open_sale(environment["FLASH_POSTGRES_URL"])
    seen: dict[Cell, list[load.Seen]] = {}
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flash-bench-")))
        for auth in AUTHS:
            write_identities(folder / auth, auth, environment["FLASH_JWT_SECRET"])
        servers = {}
        for auth in AUTHS:
            for contestant in (OURS, *contestants):
                server = await stack.enter_async_context(running(contestant, auth, environment, options.core))
                servers[contestant, auth] = server
        names = _Names()
        await _make_ready(servers, folder, names)
        for number in range(-1, effort.rounds):
            seconds = effort.seconds if number >= 0 else effort.warm_up_seconds
            for scenario, auth, contestant in _turns(contestants):
                cell = Cell(scenario.name, auth, contestant.name)
                server = servers[contestant, auth]
                attempts = load.Attempts(scenario.sku, scenario.quantity, folder / auth, names.prefix())
                _expect(server, scenario, folder, names)
                watched = options.processes | {load.SERVER: server.pid}
                one = await load.send(server.url, attempts, seconds, watched)
                if one.broken or one.refusals != (one.answers if scenario.verdict else 0):
                    raise RuntimeError(f"{cell}: unexpected answers, {one}")
                if number >= 0:
                    seen.setdefault(cell, []).append(one)
                    _say(f"round {number + 1}: {', '.join(cell)}: {one.rate:,.0f}/s, p99 {one.p99_ms:.1f} ms")
    print(json.dumps(report(seen, OURS.name, effort, left_out)))
    return 0


class _Names:
    # Prefixes of keys, new ones with every run: keys are for ever.
    def __init__(self) -> None:
        self._run = f"{time.time_ns():x}"
        self._count = 0

    def prefix(self) -> str:
        self._count += 1
        return f"{self._run}-{self._count}-"


def _turns(contestants: list[Contestant]) -> Iterator[tuple[Scenario, str, Contestant]]:
    for scenario in SCENARIOS:
        for auth in AUTHS:
            for contestant in (OURS, *(contestants if scenario.has_peers else [])):
                yield scenario, auth, contestant


async def _make_ready(servers: dict[tuple[Contestant, str], Server], folder: Path, names: _Names) -> None:
    # The last unit goes, and then everybody answers as they should: the gate is made, and so is every script's cache.
    ours, identity = servers[OURS, AUTHS[0]], _identity(folder, AUTHS[0])
    ends = time.monotonic() + GATE_SECONDS
    while ask(ours, identity, names.prefix() + "0000000000", GONE, 1)[0] != SCENARIOS[1].status:
        if time.monotonic() > ends:
            raise RuntimeError("the last unit was not sold")
        await asyncio.sleep(0.1)
    for server in servers.values():
        while not _is_right(server, SCENARIOS[0], folder, names):
            if time.monotonic() > ends:
                raise RuntimeError(f"{server.contestant.name} never answered as it should")
            await asyncio.sleep(0.1)


def _expect(server: Server, scenario: Scenario, folder: Path, names: _Names) -> None:
    if not _is_right(server, scenario, folder, names):
        raise RuntimeError(f"{server.contestant.name} does not answer with {scenario.verdict or scenario.status}")


def _is_right(server: Server, scenario: Scenario, folder: Path, names: _Names) -> bool:
    key = names.prefix() + "0000000000"
    status, verdict = ask(server, _identity(folder, server.auth), key, scenario.sku, scenario.quantity)
    return (status, verdict) == (scenario.status, scenario.verdict)


def _identity(folder: Path, auth: str) -> str:
    with (folder / auth).open(encoding="ascii") as file:
        return file.readline().rstrip("\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _processes(text: str) -> dict[str, int]:
    return {name: int(pid) for name, _, pid in (pair.partition("=") for pair in text.split(","))}


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backend", allow_abbrev=False)
    parser.add_argument("subject", choices=[OURS.name])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--home", type=Path, required=True, help="where peers are installed")
    parser.add_argument("--core", type=int, required=True, help="the server's own")
    parser.add_argument(
        "--processes", type=_processes, required=True, metavar="NAME=PID,...", help="whose CPU is counted"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
