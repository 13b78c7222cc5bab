# backup and restore: everything that PostgreSQL knows of the shop, in one file of pg_dump's own format. Redis and RabbitMQ are
# copies of it, and the gateways' journals are the banks' books: none of them is in the file. Nor is any role's password.
from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from flashsale.settings import Settings
from flashsale.stack import services
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.lifecycle import UP, running_urls
from flashsale.stack.roles import AUDIT, MIGRATE
from flashsale.stack.running import Stack, running_stack

SCHEMA = "flash"
# Above anything that gates count up to, which is once per rebuild: seconds since 1970.
NEW_EPOCHS = f"""SELECT r.epoch FROM (SELECT id FROM {SCHEMA}.sale ORDER BY id) s
    CROSS JOIN LATERAL {SCHEMA}.raise_epoch(s.id, extract(epoch FROM clock_timestamp())::bigint) r"""  # noqa: S608 - constants
DUMP_WITHIN_S = 900.0
LOCK_WAIT_MS = 5_000  # pg_dump's locks are the weakest; only a migration could keep it waiting
WORDS_MAX = 5  # lines of a tool's last words


def backup(settings: Settings, file: Path, *, as_json: bool) -> Exit:
    """Write the running shop to `file`, of one moment, with the read-only role. Selling goes on. Raises StackError."""
    url = running_urls(settings)["postgres_auditor"]
    dump_to(url, file)
    _told({"file": str(file), "bytes": file.stat().st_size}, as_json=as_json)
    return Exit.OK


def dump_to(url: str, file: Path) -> None:
    """A whole file, or none: it is written beside and renamed. It names buyers, so it is its owner's alone."""
    if file.exists():
        raise StackError(f"{file} exists; a backup overwrites nothing", Exit.USAGE)
    program = services.find_postgres_tool("pg_dump")
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # 0600
    except OSError as error:
        raise StackError(f"{file} cannot be written: {error}", Exit.USAGE) from error
    try:
        with os.fdopen(handle, "wb") as output:
            options = ["--format=custom", f"--schema={SCHEMA}", f"--lock-wait-timeout={LOCK_WAIT_MS}"]
            _run([str(program), *options], url, stdout=output.fileno())
            os.fsync(output.fileno())
        Path(beside).rename(file)
    finally:
        Path(beside).unlink(missing_ok=True)


async def restore(settings: Settings, file: Path, say: Callable[[str], None], *, replaces: bool, as_json: bool) -> Exit:
    """
    Put a backup in place of what `up` knows, all of it or nothing, and audit the result. Whatever was sold since the
    backup is gone from the books, and the banks know of it: their journals are compared by `audit` once `up` runs.
    Raises StackError; while `up` runs, too.
    """
    with tempfile.TemporaryDirectory(prefix="flash-restore-") as directory:  # 0700
        script = Path(directory) / "restore.sql"
        extract(file, script)
        async with running_stack(settings, instance=UP, services=("postgres",), roles=(), say=say) as stack:
            await stack.run(MIGRATE)  # makes the roles that the backup grants to
            sales = await _count_sales(stack)
            if sales and not replaces:
                raise StackError(f"{sales} sales are here already. Fix: --replace, which loses them", Exit.USAGE)
            say(f"replacing {sales} sales by {file}" if sales else f"restoring {file}")
            load(stack.urls.postgres_owner, script)
            await stack.run(MIGRATE)  # what is newer than the backup; and refuses one of another version
            sales = await _count_sales(stack)
    async with running_stack(settings, instance=UP, services=(), roles=("upkeep",), say=say) as stack:
        say("auditing what was restored; the banks' journals follow with ./flash up and ./flash audit")
        audit = json.loads(await stack.run(AUDIT, "--json"))
    _told({"file": str(file), "sales": sales, "audit": audit["scope"]}, as_json=as_json)
    return Exit.OK


def extract(file: Path, script: Path) -> None:
    """Write the backup to `script` as SQL, whole: one that breaks off must not be found out in the middle. Raises StackError."""
    program = services.find_postgres_tool("pg_restore")
    try:
        with script.open("wb") as output:
            done = subprocess.run(
                [str(program), "--no-owner", "--file=-", str(file)],
                stdout=output,
                stderr=subprocess.PIPE,
                timeout=DUMP_WITHIN_S,
                check=False,
            )
    except subprocess.TimeoutExpired as error:
        raise StackError(f"{file} could not be read within {DUMP_WITHIN_S:.0f} s") from error
    with script.open("rb") as text:  # line by line: it may be larger than the memory
        has_schema = any(line == f"CREATE SCHEMA {SCHEMA};\n".encode() for line in text)
    if done.returncode != 0 or not has_schema:
        words = done.stderr.decode(errors="replace").strip() or f"it has no schema {SCHEMA}"
        raise StackError(f"{file} is no backup: {words}", Exit.USAGE)


def load(url: str, script: Path) -> None:
    """
    Run the script in one transaction, in which the schema that is there goes first. Raises StackError; nothing changed then.
    A gate made after the backup would be ahead of the books and be believed: every sale gets an epoch that no gate has had,
    those too that are over, whose last returns are still shown and which may be prolonged; upkeep makes a new gate.
    """
    program = services.find_postgres_tool("psql")
    options = ["--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1"]
    steps = [f"--command=DROP SCHEMA IF EXISTS {SCHEMA} CASCADE", f"--file={script}", f"--command={NEW_EPOCHS}"]
    _run([str(program), *options, *steps], url, stdout=subprocess.DEVNULL)


def _run(command: Sequence[str], url: str, *, stdout: int) -> None:
    # The password goes through the environment: a command line is public. It may stand in the query as well.
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    password = parse_qs(parts.query).get("password", [unquote(parts.password or "")])[-1]
    public = parts._replace(
        netloc=f"{parts.username}@{place}" if parts.username else place,
        query="&".join(word for word in parts.query.split("&") if word.partition("=")[0] != "password"),
    ).geturl()
    environment = {"PATH": services.SYSTEM_PATH, "LC_ALL": "C.UTF-8", "PGPASSWORD": password}
    try:
        done = subprocess.run(
            [*command, f"--dbname={public}"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=DUMP_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise StackError(f"{Path(command[0]).name} took longer than {DUMP_WITHIN_S:.0f} s") from error
    if done.returncode != 0:
        words = "\n  ".join(done.stderr.decode(errors="replace").strip().splitlines()[-WORDS_MAX:])
        raise StackError(f"{Path(command[0]).name} failed:\n  {words}")


async def _count_sales(stack: Stack) -> int:
    import asyncpg  # noqa: PLC0415 - not there before the environment is

    connection = await asyncpg.connect(stack.urls.postgres_owner, timeout=services.CONNECT_WITHIN_S)
    try:
        return int(await connection.fetchval(f"SELECT count(*) FROM {SCHEMA}.sale"))  # noqa: S608 - a constant
    finally:
        await connection.close(timeout=services.CONNECT_WITHIN_S)


def _told(document: dict[str, object], *, as_json: bool) -> None:
    print(json.dumps(document) if as_json else "\n".join(f"{name}: {value}" for name, value in document.items()))
