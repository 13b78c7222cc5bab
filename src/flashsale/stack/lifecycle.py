# up, down, status, clean: the long life of the instance `up`.
from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flashsale.settings import ADMIN, REPOSITORY, Settings
from flashsale.stack import processes
from flashsale.stack.console import table
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.processes import Identity
from flashsale.stack.roles import SEED
from flashsale.stack.running import running_stack
from flashsale.stack.state import Instance, admin_users, instances

UP = "up"
UP_WITHIN_S = 600.0  # installed packages aside, the slowest honest start is a broker on a cold disk and a busy machine
DOWN_WITHIN_S = 150.0  # PostgreSQL's and RabbitMQ's own bounds, one after the other, and some
POLL_S = 0.1


async def up_in_foreground(settings: Settings, say: Callable[[str], None], *, as_json: bool) -> Exit:
    """Run the instance until Ctrl-C or SIGTERM; both are its normal end."""
    backends = (settings.backend,)
    async with running_stack(
        settings, instance=UP, services=(), roles=(ADMIN,), backends=backends, say=say, fixed_ports=True
    ) as stack:
        sale = json.loads(await stack.run(SEED))
        stack.announce(sale=sale)
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        _print_addresses(Instance(settings.home, UP).read(), settings, as_json=as_json)
        await stop.wait()
        say("stopping")
    return Exit.OK


def up_in_background(settings: Settings, say: Callable[[str], None], *, as_json: bool) -> Exit:
    """Start a supervisor that outlives this command, wait until everything is ready, and print the addresses."""
    instance = Instance(settings.home, UP)
    supervisor = instance.supervisor
    if instance.holder() is not None and supervisor is not None and supervisor.alive:
        say("already running")
        _await_ready(instance, supervisor, _nothing)
        if not supervisor.alive:
            raise StackError(f"it ended: {instance.read().get('error') or 'somebody stopped it'}")
        _print_addresses(instance.read(), settings, as_json=as_json)
        return Exit.OK
    instance.create()
    log = instance.logs / "supervisor.log"
    log.unlink(missing_ok=True)
    log.touch(mode=0o600)
    with log.open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "flash"), "up", "--foreground"],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            start_new_session=True,
        )
    supervisor = Identity.of(child.pid)
    with log.open(encoding="utf-8", errors="replace") as progress:

        def relay() -> None:
            sys.stderr.write(progress.read())
            sys.stderr.flush()

        try:
            if supervisor is not None:
                _await_ready(instance, supervisor, relay)
        except BaseException:
            child.send_signal(signal.SIGTERM)
            child.wait(DOWN_WITHIN_S)
            relay()
            raise
        relay()
    if child.poll() is not None:
        # Its own words are on stderr already.
        return Exit(child.returncode) if child.returncode in set(Exit) else Exit.FAILED
    _print_addresses(instance.read(), settings, as_json=as_json)
    return Exit.OK


def down(settings: Settings, say: Callable[[str], None], *, as_json: bool) -> Exit:
    """Stop the instance and whatever it left behind. Data stays. Nothing running is fine too."""
    instance = Instance(settings.home, UP)
    recorded = instance.recorded
    supervisor = instance.supervisor
    running = instance.holder() is not None and supervisor is not None and supervisor.alive
    if running and supervisor is not None:
        say(f"stopping process {supervisor.pid} and all it started")
        processes.end([supervisor], grace_s=DOWN_WITHIN_S)
    left = processes.end(recorded, grace_s=5.0)
    if left:
        say(f"ended {len(left)} processes that were left behind")
    stopped = running or bool(left)
    say("stopped; data is kept" if stopped else "nothing is running")
    if as_json:
        print(json.dumps({"stopped": stopped}))
    return Exit.OK


def status(settings: Settings, *, as_json: bool) -> Exit:
    """What runs. OK if everything is ready, MISSING if nothing runs, FAILED in between."""
    found = report(settings)
    if as_json:
        print(json.dumps(found, indent=2))
    elif not found["running"]:
        why = f" ({found['error'].partition(chr(10))[0]})" if found["error"] else ""
        print(f"not running{why}; start it with `./flash up`")
    else:
        header = ("PROCESS", "PID", "PORT", "OPS", "STATE", "RESTARTS", "READY FOR", "CPU", "MEMORY")
        print(table(header, [_row(row) for row in found["processes"]]))
    if not found["running"]:
        return Exit.MISSING
    return (
        Exit.OK
        if found["status"] == "ready" and all(r["state"] == "ready" for r in found["processes"])
        else Exit.FAILED
    )


def report(settings: Settings) -> dict[str, Any]:
    """The recorded state of `up`, without secrets, and what the kernel says of its processes."""
    instance = Instance(settings.home, UP)
    state = instance.read()
    supervisor = instance.supervisor
    running = supervisor is not None and supervisor.alive and instance.holder() is not None
    rows = []
    for row in state.get("processes", []) if running else []:
        identity = Identity.recalled(row) if row["pid"] else None
        alive = identity is not None and identity.alive
        rows.append(
            {key: row[key] for key in ("role", "index", "pid", "port", "ops_port", "state", "restarts", "log")}
            | {
                "ready_for_s": round(time.time() - row["ready_at"], 1) if row["ready_at"] else None,
                "cpu_s": round(processes.cpu_seconds(row["pid"]), 2) if alive else None,
                "rss_bytes": processes.rss_bytes(row["pid"]) if alive else None,
            }
        )
    return {
        "running": running,
        "status": state.get("status") if running else "stopped",
        "error": state.get("error"),
        "supervisor_pid": supervisor.pid if running and supervisor else None,
        "addresses": state.get("addresses", []) if running else [],
        "admin": state.get("admin", []) if running else [],
        "sale": state.get("sale") if running else None,
        "processes": rows,
    }


def clean(settings: Settings, say: Callable[[str], None], *, everything: bool) -> Exit:
    """Remove the data of every instance; `everything` takes the secret and the Python environment along."""
    found = instances(settings.home)
    for instance in found:
        if instance.holder() is not None:
            raise StackError(f"the instance {instance.name!r} is running. Fix: ./flash down", Exit.USAGE)
    for instance in found:
        processes.end(instance.recorded, grace_s=5.0)
        instance.remove()
        say(f"removed the data of {instance.name!r}")
    if everything:
        (settings.home / "jwt_secret").unlink(missing_ok=True)
        (settings.home / "admin_users.json").unlink(missing_ok=True)
        (settings.home / "venv.lock").unlink(missing_ok=True)
        # Last: it holds the Python that runs this.
        shutil.rmtree(settings.home / "venv", ignore_errors=True)
        say("removed the secret and the Python environment")
    return Exit.OK


def running_urls(settings: Settings) -> dict[str, str]:
    """The URLs that running_stack announced of the running instance, "" for what it lacks. Raises StackError (MISSING) if it does not run."""
    instance = Instance(settings.home, UP)
    if instance.holder() is None or instance.read().get("status") != "ready":
        raise StackError("nothing is running. Fix: ./flash up", Exit.MISSING)
    urls: dict[str, str] = instance.read()["urls"]
    return urls


def _await_ready(instance: Instance, supervisor: Identity, each_time: Callable[[], None]) -> None:
    deadline = time.monotonic() + UP_WITHIN_S
    while time.monotonic() < deadline:
        each_time()
        state = instance.read()
        # Until the new supervisor writes, the file is its predecessor's.
        mine = state.get("supervisor") == supervisor.record()
        if not supervisor.alive or (mine and state.get("status") == "ready" and "sale" in state):
            return
        time.sleep(POLL_S)
    raise StackError(f"not ready within {UP_WITHIN_S:.0f} s; see {_shown(instance.logs)}")


def _print_addresses(state: dict[str, Any], settings: Settings, *, as_json: bool) -> None:
    addresses = state.get("addresses", [])
    sale = state.get("sale") or {}
    if as_json:
        found = {"status": state.get("status"), "addresses": addresses, "admin": state.get("admin", []), "sale": sale}
        print(json.dumps(found), flush=True)
        return
    skus = sale.get("skus") or ["SKU"]
    who = "-H 'Buyer-Id: ana'" if settings.auth == "off" else '-H "Authorization: Bearer $(./flash token --buyer ana)"'
    body = json.dumps({"items": [{"sku": skus[0], "quantity": 1}]})
    if addresses:
        print(f"shoppers' page: {addresses[0]}/  (the balancer)")
        print(f"servers behind it: {' '.join(addresses[1:])}")
        for address in state.get("admin", []):
            known = admin_users(settings).exists()
            print(f"admin page: {address}/" + ("" if known else "  (first: ./flash admin add NAME --role operator)"))
        print(
            f"try:  curl -i {addresses[0]}/purchases {who} -H 'Content-Type: application/json' \\\n"
            f"        -H 'Idempotency-Key: my-first-purchase' -H 'Prefer: wait=5' -d '{body}'"
        )
    print("then: ./flash status | audit | down", flush=True)


def _row(row: dict[str, Any]) -> list[str]:
    def shown(value: Any, form: str = "{}") -> str:
        return "-" if value is None else form.format(value)

    rss = row["rss_bytes"]
    return [
        f"{row['role']}-{row['index']}",
        shown(row["pid"]),
        shown(row["port"]),
        shown(row["ops_port"]),
        row["state"],
        shown(row["restarts"]),
        shown(row["ready_for_s"], "{:.0f} s"),
        shown(row["cpu_s"], "{:.1f} s"),
        shown(None if rss is None else rss / 2**20, "{:.0f} MiB"),
    ]


def _nothing() -> None:
    pass


def _shown(path: Path) -> str:
    return os.path.relpath(path)
