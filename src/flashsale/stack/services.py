# Finds or makes PostgreSQL, Redis and RabbitMQ. For each: a URL that is given is used; else a program on this machine
# becomes a private instance, on a free loopback port, with its data in the instance's directory; else, for root, the
# Debian package is installed, said aloud first; else an error that names the fix. Never a fake.
from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit

from flashsale.settings import Settings, mask_url
from flashsale.stack import probes
from flashsale.stack.exits import Exit, StackError
from flashsale.stack.processes import LOOPBACK, User, free_port
from flashsale.stack.state import Instance
from flashsale.stack.supervisor import ProcessSpec

DATABASE = "flash"
OWNER_ROLE = "flash_owner"
# Who may do what there: stack/roles.py.
OTHER_ROLES = {"app": "flash_app", "auditor": "flash_auditor", "operator": "flash_operator", "admin": "flash_admin"}
DERIVED_PASSWORD_CHARS = 32  # of hexadecimal: 128 bits, as good as a random one
APT_WITHIN_S = 900.0
# Recovery after a kill, on a busy machine.
READY_WITHIN_S: Mapping[str, float] = {"postgres": 120.0, "redis": 60.0, "rabbitmq": 120.0}
INITDB_WITHIN_S = 120.0
CONNECT_WITHIN_S = 5.0
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = "#!/bin/sh\n# flashsale: packages being installed start no daemons\nexit 101\n"
# Debian keeps each major version's programs off PATH; the newest wins.
POSTGRES_DIRECTORIES = ("usr/lib/postgresql/*/bin", "usr/local/pgsql/bin", "usr/pgsql-*/bin")
# Debian's wrapper on PATH insists on the user and the directories of its own daemon, so the real script comes first.
RABBITMQ_DIRECTORIES = ("usr/lib/rabbitmq/bin", "opt/rabbitmq/sbin", "usr/lib/rabbitmq/lib/*/sbin")
EPMD_DIRECTORIES = ("usr/lib/erlang/bin", "usr/lib/erlang/erts-*/bin")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Service:
    """A service to be used: `specs` are the processes to start for it (none if the URL was given), in order."""

    name: str
    urls: Mapping[str, str]
    specs: tuple[ProcessSpec, ...] = ()
    settle: Callable[[], Awaitable[None]] | None = None  # once it answers


@dataclass(frozen=True)
class Kind:
    """How one service is found, obtained, checked and started."""

    packages: tuple[str, ...]
    find: Callable[[], Path | None]
    check: Callable[[str], Awaitable[None]]
    start: Callable[[Path, Instance], Service]
    urls: Callable[[str, Settings], Mapping[str, str]]  # of one that is given


async def resolve(
    names: Sequence[str], settings: Settings, instance: Instance, say: Callable[[str], None]
) -> list[Service]:
    """
    The services, ready to be started in this order. Raises StackError with the fix if one cannot be had. May install
    Debian packages, which takes minutes.
    """
    given = {name: url for name in names if (url := getattr(settings, f"{name}_url"))}
    for name, url in given.items():
        say(f"{name}: using {mask_url(url)}")
        await _check(name, url)
    private = [name for name in names if name not in given]
    missing = [name for name in private if KINDS[name].find() is None]
    if missing:
        _obtain(missing, settings, say)
    services = []
    for name in names:
        if name in given:
            services.append(Service(name, KINDS[name].urls(given[name], settings)))
            continue
        program = KINDS[name].find()
        assert program is not None, "obtained above"
        say(f"{name}: private instance of {program}")
        services.append(KINDS[name].start(program, instance))
    return services


def may_install(settings: Settings) -> bool:
    return settings.apt == "on" and os.geteuid() == 0 and shutil.which("apt-get") is not None


def fix_for(names: Sequence[str]) -> str:
    """The one command that obtains the services."""
    packages = " ".join(package for name in names for package in KINDS[name].packages)
    variables = " ".join(f"FLASH_{name.upper()}_URL" for name in names)
    return f"apt-get install {packages} (as root), or set {variables}"


def _obtain(missing: Sequence[str], settings: Settings, say: Callable[[str], None]) -> None:
    if not may_install(settings):
        raise StackError(f"not found: {', '.join(missing)}. Fix: {fix_for(missing)}", Exit.MISSING)
    packages = [package for name in missing for package in KINDS[name].packages]
    install(packages, say)
    still = [name for name in missing if KINDS[name].find() is None]
    if still:
        raise StackError(f"installed {' '.join(packages)}, yet not found: {', '.join(still)}", Exit.MISSING)


def install(packages: Sequence[str], say: Callable[[str], None]) -> None:
    """Install Debian packages without starting their daemons. Root only. Raises StackError with apt's last words."""
    say(f"installing the Debian packages {' '.join(packages)} (FLASH_APT=off forbids it); their daemons stay off")
    environment = {"PATH": SYSTEM_PATH, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1", "LC_ALL": "C.UTF-8"}
    environment |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    last = None
    with _no_daemons():
        # The lists may be absent or stale, but fetching them costs more than trying first.
        for step in (["install"], ["update"], ["install"]):
            command = ["apt-get", "-q", *step]
            if step == ["install"]:
                command += ["-y", "--no-install-recommends", *packages]
            try:
                last = subprocess.run(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=APT_WITHIN_S,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise StackError(f"apt-get {step[0]} took longer than {APT_WITHIN_S:.0f} s", Exit.MISSING) from error
            if step == ["install"] and last.returncode == 0:
                return
    words = "\n  ".join((last.stdout if last else "").splitlines()[-5:])
    raise StackError(f"apt-get could not install {' '.join(packages)}:\n  {words}", Exit.MISSING)


@contextlib.contextmanager
def _no_daemons() -> Iterator[None]:
    # A policy that is there already is the administrator's word, unless a killed start of ours left it.
    if POLICY.exists() and POLICY.read_text(encoding="utf-8", errors="replace") != POLICY_TEXT:
        yield
        return
    POLICY.write_text(POLICY_TEXT, encoding="ascii")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


async def _check(name: str, url: str) -> None:
    try:
        await KINDS[name].check(url)
    except Exception as error:
        raise StackError(
            f"FLASH_{name.upper()}_URL ({mask_url(url)}) does not answer: {str(error) or type(error).__name__}. "
            "Fix: correct or unset it; unset, a private instance is used",
            Exit.MISSING,
        ) from error


def _find(program: str, directories: Sequence[str], *, path_first: bool) -> Path | None:
    # By version number, not by spelling: 9 is older than 15.
    known = sorted(
        (path for pattern in directories for path in Path("/").glob(f"{pattern}/{program}")),
        key=lambda path: [int(part) if part.isdecimal() else 0 for part in path.parts],
        reverse=True,
    )
    on_path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")
    candidates = [*known] if on_path is None else [Path(on_path), *known] if path_first else [*known, Path(on_path)]
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


# --- PostgreSQL


def _find_postgres() -> Path | None:
    # The server alone is not enough: initdb must lie beside it, behind whatever links lead there.
    found = _find("initdb", POSTGRES_DIRECTORIES, path_first=False)
    return found.parent / "postgres" if found and (found.parent / "postgres").exists() else None


def find_postgres_tool(name: str) -> Path:
    """pg_dump, pg_restore or psql: the newest there is, because an older one refuses a newer server. Raises StackError."""
    found = _find(name, POSTGRES_DIRECTORIES, path_first=False)
    if found is None:
        raise StackError(f"not found: {name}. Fix: apt-get install postgresql-client", Exit.MISSING)
    return found


async def _check_postgres(url: str) -> None:
    import asyncpg  # noqa: PLC0415 - not there before the environment is

    connection = await asyncpg.connect(url, timeout=CONNECT_WITHIN_S)
    try:
        await connection.fetchval("SELECT 1", timeout=CONNECT_WITHIN_S)
    finally:
        await connection.close(timeout=CONNECT_WITHIN_S)


def _given_postgres_urls(url: str, settings: Settings) -> dict[str, str]:
    # Whoever gives one URL gives the owner's. Several instances may be given the same, and each sets the passwords of the
    # roles at its start: they must be the same everywhere, or each start would lock the other instances out.
    given = {name: getattr(settings, f"postgres_{name}_password") for name in OTHER_ROLES}
    return _postgres_urls(
        url, {name: given[name] or _derived_password(url, role) for name, role in OTHER_ROLES.items()}
    )


def _postgres_urls(owner: str, passwords: Mapping[str, str]) -> dict[str, str]:
    return {"owner": owner} | {name: _as_user(owner, role, passwords[name]) for name, role in OTHER_ROLES.items()}


def _derived_password(url: str, role: str) -> str:
    # Only who may set the password anyway can work it out. Decoded, because one password has many spellings in a URL.
    parts = urlsplit(url)
    in_query = parse_qs(parts.query).get("password", [""])[-1]
    key = unquote(parts.password or "") or in_query or url
    digest = hmac.new(key.encode(), f"flashsale/postgres-role-password/{role}".encode(), hashlib.sha256)
    return digest.hexdigest()[:DERIVED_PASSWORD_CHARS]


def _as_user(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    # The query may carry the owner's password, which is not for the roles.
    kept = [word for word in parts.query.split("&") if word.partition("=")[0] not in {"user", "password"}]
    return urlunsplit((parts.scheme, f"{user}:{quote(password, safe='')}@{place}", parts.path, "&".join(kept), ""))


def _start_postgres(program: Path, instance: Instance) -> Service:
    passwords = instance.passwords()
    user = _unprivileged()
    data = _postgres_data(program, instance, user, passwords["postgres_superuser"])
    port = free_port()
    options = {
        "port": str(port),
        "listen_addresses": LOOPBACK,
        "unix_socket_directories": "",  # paths under a deep directory exceed the kernel's 107 bytes
        "password_encryption": "scram-sha-256",
        "max_connections": "100",
        # A batch claims its attempts and purchases by locks: two for each of FLASH_BATCH_MAX. Four times the default.
        "max_locks_per_transaction": "256",
        "shared_buffers": "256MB",
        "max_wal_size": "2GB",
        "fsync": "on",
        "synchronous_commit": "on",  # an acknowledged purchase survives a power cut
        "autovacuum": "on",
        "jit": "off",  # every statement is short; compiling one costs more than running it
        "logging_collector": "off",
        "log_min_messages": "warning",
    }
    spec = ProcessSpec(
        role="postgres",
        command=(str(program), "-D", str(data), *(word for item in options.items() for word in ("-c", "=".join(item)))),
        environment={"PATH": f"{program.parent}:{SYSTEM_PATH}", "LC_ALL": "C.UTF-8", "HOME": str(data)},
        ready=lambda: probes.postgres_answers(LOOPBACK, port),
        port=port,
        ready_within_s=READY_WITHIN_S["postgres"],
        stop_signal=signal.SIGINT,  # fast shutdown: connections are cut, a checkpoint is written
        stop_within_s=30.0,
        death_signal=signal.SIGQUIT,  # immediate shutdown: it ends its own children, SIGKILL would not
        user=user,
        cwd=data,
    )

    def url(name: str, password: str, database: str = DATABASE) -> str:
        return f"postgresql://{name}:{password}@{LOOPBACK}:{port}/{database}"

    superuser = url("postgres", passwords["postgres_superuser"], "postgres")
    owner = url(OWNER_ROLE, passwords["postgres_owner"])

    async def settle() -> None:
        await _make_database(superuser, passwords["postgres_owner"])

    urls = _postgres_urls(owner, {name: passwords[f"postgres_{name}"] for name in OTHER_ROLES})
    return Service("postgres", {"superuser": superuser, **urls}, (spec,), settle)


def _postgres_data(program: Path, instance: Instance, user: User | None, password: str) -> Path:
    directory = instance.data("postgres")
    _give(directory, user)
    if not _can_write(directory, user):
        # The instance lies below a directory that is closed to PostgreSQL's user.
        directory = instance.move_data("postgres")
        _give(directory, user)
        if not _can_write(directory, user):
            raise StackError(f"{directory} cannot be made writable for PostgreSQL's user; set FLASH_HOME", Exit.MISSING)
    data = directory / "data"
    if (data / "PG_VERSION").exists():
        return data
    # Built beside and renamed: an interrupted initdb must not look like a database.
    building = directory / "building"
    shutil.rmtree(building, ignore_errors=True)
    password_file = directory / "password"
    password_file.unlink(missing_ok=True)
    password_file.touch(mode=0o600)
    password_file.write_text(password, encoding="ascii")
    if user is not None:
        os.chown(password_file, user.uid, user.gid)
    command = [program.parent / "initdb", "-D", building, "-U", "postgres", "--auth=scram-sha-256"]
    command += [f"--pwfile={password_file}", "--encoding=UTF8", "--locale=C", "--no-instructions"]
    try:
        done = subprocess.run(
            [str(word) for word in command],
            env={"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8"},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=INITDB_WITHIN_S,
            check=False,
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=None if user is None else [],
        )
    except subprocess.TimeoutExpired as error:
        raise StackError(f"initdb took longer than {INITDB_WITHIN_S:.0f} s") from error
    finally:
        password_file.unlink()
    if done.returncode != 0:
        raise StackError(f"initdb failed:\n  {done.stderr.strip()}")
    building.rename(data)
    return data


def _unprivileged() -> User | None:
    # PostgreSQL refuses to run as root.
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return User(entry.pw_uid, entry.pw_gid)
    raise StackError("PostgreSQL refuses root, and there is no user postgres or nobody", Exit.MISSING)


def _give(directory: Path, user: User | None) -> None:
    directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    if user is not None:
        os.chown(directory, user.uid, user.gid)


def _can_write(directory: Path, user: User | None) -> bool:
    if user is None:
        return os.access(directory, os.W_OK | os.X_OK)
    # Asked of the kernel as that user: permission bits of every parent, ACLs and mount options all count.
    done = subprocess.run(
        ["/usr/bin/test", "-w", str(directory)],
        cwd="/",
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        timeout=10,
        check=False,
    )
    return done.returncode == 0


async def _make_database(superuser: str, owner_password: str) -> None:
    import asyncpg  # noqa: PLC0415 - not there before the environment is

    try:
        connection = await asyncpg.connect(superuser, timeout=CONNECT_WITHIN_S)
    except asyncpg.InvalidPasswordError as error:
        raise StackError(
            "the private PostgreSQL does not know the kept password; `./flash clean` starts afresh", Exit.USAGE
        ) from error
    try:
        if not await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", OWNER_ROLE):
            # The password is our own URL-safe token, so it cannot end the literal.
            await connection.execute(f"CREATE ROLE {OWNER_ROLE} LOGIN CREATEROLE CREATEDB PASSWORD '{owner_password}'")
        if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {OWNER_ROLE}")
    finally:
        await connection.close(timeout=CONNECT_WITHIN_S)


# --- Redis


def _find_redis() -> Path | None:
    return _find("redis-server", (), path_first=True) or _find("valkey-server", (), path_first=True)


async def _check_redis(url: str) -> None:
    from redis.asyncio import Redis  # noqa: PLC0415 - not there before the environment is

    client = Redis.from_url(url, socket_timeout=CONNECT_WITHIN_S, socket_connect_timeout=CONNECT_WITHIN_S)
    try:
        await client.ping()
    finally:
        await client.aclose()


def _start_redis(program: Path, instance: Instance) -> Service:
    password = instance.passwords()["redis"]
    port = free_port()
    directory = instance.data("redis")
    directory.mkdir(mode=0o700, exist_ok=True)
    lines = (
        f"bind {LOOPBACK}",
        f"port {port}",
        "protected-mode yes",
        f"requirepass {password}",
        f'dir "{directory}"',
        "daemonize no",
        'save ""',
        "appendonly yes",
        "appendfsync everysec",
        "maxmemory 1gb",
        "maxmemory-policy noeviction",  # losing a key silently would lose stock
        "loglevel warning",
    )
    # In a file, because a command line is public.
    config = directory / "redis.conf"
    config.touch(mode=0o600)
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    spec = ProcessSpec(
        role="redis",
        command=(str(program), str(config)),
        environment={"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8"},
        ready=lambda: probes.redis_answers(LOOPBACK, port, password),
        port=port,
        ready_within_s=READY_WITHIN_S["redis"],
        cwd=directory,
    )
    return Service("redis", {"app": f"redis://:{password}@{LOOPBACK}:{port}/0"}, (spec,))


# --- RabbitMQ


def _find_rabbitmq() -> Path | None:
    if _find_epmd() is None:
        return None
    return _find("rabbitmq-server", RABBITMQ_DIRECTORIES, path_first=False)


def _find_epmd() -> Path | None:
    return _find("epmd", EPMD_DIRECTORIES, path_first=True)


async def _check_rabbitmq(url: str) -> None:
    parts = urlsplit(url)
    tls = parts.scheme == "amqps"
    port = parts.port or (5671 if tls else 5672)
    assert parts.hostname is not None, "the settings checked it"
    if not await probes.amqp_answers(parts.hostname, port, tls=tls):
        raise ConnectionError(f"no AMQP handshake from {parts.hostname}:{port}")


def _start_rabbitmq(program: Path, instance: Instance) -> Service:
    passwords = instance.passwords()
    directory = instance.data("rabbitmq")
    directory.mkdir(mode=0o700, exist_ok=True)
    port, inter_node_port, epmd_port = free_port(), free_port(), free_port()
    files = {
        "rabbitmq.conf": "\n".join(
            (
                f"listeners.tcp.1 = {LOOPBACK}:{port}",
                "default_user = flash",
                f"default_pass = {passwords['rabbitmq']}",
                "vm_memory_high_watermark.absolute = 1GB",
                "disk_free_limit.absolute = 256MB",
                "log.console = true",
                "log.console.level = warning",
                "log.file = false",
                "",
            )
        ),
        "enabled_plugins": "[].\n",
        "rabbitmq-env.conf": "",  # ours and empty, lest the machine's own be read
        ".erlang.cookie": passwords["erlang_cookie"],
    }
    for name, text in files.items():
        path = directory / name
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
    (directory / "conf.d").mkdir(mode=0o700, exist_ok=True)
    environment = {
        "PATH": SYSTEM_PATH,
        "LC_ALL": "C.UTF-8",
        "HOME": str(directory),  # where Erlang looks for its cookie
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": LOOPBACK,
    }
    epmd_program = _find_epmd()
    assert epmd_program is not None, "_find_rabbitmq looked for it"
    # Erlang would start its port mapper as a daemon that outlives everyone, so this one is ours and in the foreground.
    epmd = ProcessSpec(
        role="epmd",
        command=(str(epmd_program), "-port", str(epmd_port), "-address", LOOPBACK),
        environment=environment,
        ready=lambda: probes.epmd_answers(LOOPBACK, epmd_port),
        port=epmd_port,
        stop_within_s=2.0,
    )
    broker = ProcessSpec(
        role="rabbitmq",
        command=(str(program),),
        environment=environment
        | {
            "RABBITMQ_NODENAME": f"flash_{instance.name}@localhost",
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(directory / "conf.d"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(inter_node_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"  # the mapper above; loopback only
            ),
            # The script then becomes the broker instead of waiting beside it: one pid, one signal, one death.
            "RUNNING_UNDER_SYSTEMD": "true",
        },
        ready=lambda: probes.amqp_answers(LOOPBACK, port),
        port=port,
        ready_within_s=READY_WITHIN_S["rabbitmq"],
        stop_within_s=30.0,
        cwd=directory,
    )
    url = f"amqp://flash:{passwords['rabbitmq']}@{LOOPBACK}:{port}/%2F"
    return Service("rabbitmq", {"app": url}, (epmd, broker))


def _one_url(url: str, _: Settings) -> dict[str, str]:
    return {"app": url}


KINDS: Mapping[str, Kind] = {
    "postgres": Kind(("postgresql",), _find_postgres, _check_postgres, _start_postgres, _given_postgres_urls),
    "redis": Kind(("redis-server",), _find_redis, _check_redis, _start_redis, _one_url),
    "rabbitmq": Kind(("rabbitmq-server",), _find_rabbitmq, _check_rabbitmq, _start_rabbitmq, _one_url),
}
