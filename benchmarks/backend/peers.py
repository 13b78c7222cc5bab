"""Who is compared with us: each is one program of ``benchmarks/peers``, with what it needs installed beside and not among ours."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.backend.servers import Contestant

PEERS = Path(__file__).resolve().parents[1] / "peers"
LOCK = PEERS / "requirements.lock"
NODE_LOCK = PEERS / "node" / "package-lock.json"
INSTALL_SECONDS = 600.0
PLAIN, NODE = "aiohttp + redis-py", "fastify + auto-pipelining"
# A young generation that holds what the requests of a moment make, as our own collector is told to come seldom.
NODE_OPTIONS = ("--max-semi-space-size=64",)

NOTHING = Contestant("nothing", (sys.executable, "-m", "benchmarks.peers.nothing"))


def find(home: Path, say: Callable[[str], None]) -> tuple[list[Contestant], list[str]]:
    """The peers that ask Redis and can run here, and a word about each that cannot. Installs under ``home``. Raises ``RuntimeError``."""
    found = [
        Contestant(PLAIN, (sys.executable, "-m", "benchmarks.peers.aiohttp_plain")),
        Contestant("aiohttp + auto-pipelining", (sys.executable, "-m", "benchmarks.peers.aiohttp_pipelined")),
        Contestant(
            "FastAPI + redis-py", (sys.executable, "-m", "benchmarks.peers.fastapi_plain"), str(packages(home, say))
        ),
    ]
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return found, ["Node fastify + ioredis is left out: there is no node, or no npm, on PATH."]
    program = _node(home, npm, say) / "fastify_pipelined.mjs"
    return [*found, Contestant(NODE, (node, *NODE_OPTIONS, str(program)))], []


def that_queue(home: Path, say: Callable[[str], None]) -> list[Contestant]:
    """The peers that put attempts into RabbitMQ. Installs under ``home``. Raises ``RuntimeError``."""
    path = str(packages(home, say))
    return [
        Contestant("Flask + Celery", (sys.executable, "-m", "benchmarks.peers.flask_celery"), path),
        Contestant("Flask + pika", (sys.executable, "-m", "benchmarks.peers.flask_pika"), path),
    ]


def packages(home: Path, say: Callable[[str], None]) -> Path:
    """Where the Python peers' packages are; comes first on their path. Installs under ``home``. Raises ``RuntimeError``."""
    # Beside the environment and not in it: that is exactly requirements.lock, and what the engine runs on must not grow by
    # what it is compared with. The peers' lock is made under ours as a constraint, so what both need is the same.
    target = home / f"python-{_digest(LOCK)}"
    options = ("--quiet", "--disable-pip-version-check", "--no-input", "--require-hashes")
    command = (sys.executable, "-m", "pip", "install", *options, "--target", "{}", "--requirement", str(LOCK))
    return _installed(target, command, None, say)


def _node(home: Path, npm: str, say: Callable[[str], None]) -> Path:
    source = NODE_LOCK.parent
    target = home / f"node-{_digest(*sorted(source.iterdir()))}"
    return _installed(target, (npm, "ci", "--no-audit", "--no-fund"), source, say)


def _installed(target: Path, command: Sequence[str], source: Path | None, say: Callable[[str], None]) -> Path:
    if target.exists():
        return target
    say(f"installing {target.name} for the peers")
    unfinished = target.with_name(f"{target.name}.new")  # an interrupted one is no finished one
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    if source is not None:
        shutil.copytree(source, unfinished, dirs_exist_ok=True)
    words = [word.replace("{}", str(unfinished)) for word in command]
    try:
        done = subprocess.run(
            words, cwd=unfinished, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{command[0]} took longer than {INSTALL_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise RuntimeError(f"{words[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    return unfinished.rename(target)


def _digest(*files: Path) -> str:
    whole = hashlib.sha256(sys.version.encode())
    for file in files:
        whole.update(file.read_bytes())
    return whole.hexdigest()[:16]
