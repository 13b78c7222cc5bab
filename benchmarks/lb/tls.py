"""What TLS at the balancer's port costs on top: a closed loop of wrk's over kept connections, with one certificate for everybody.

Apart from the plain pool, since what is measured is two TLS libraries' records: shaking hands is paid once per connection.
"""

import datetime as dt
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.backend import load
from benchmarks.backend.cores import stopped
from benchmarks.backend.load import Seen
from benchmarks.backend.report import Section
from benchmarks.lb import balancers, loop, wants
from benchmarks.lb.balancers import HAPROXY, OURS, Balancer, Contestant, Upstream
from benchmarks.lb.field import Field
from benchmarks.lb.report import HEADER, Cell, Loads, raw, row


class Effort(NamedTuple):
    """How long it is measured."""

    rounds: int
    seconds: int


FULL, QUICK = Effort(5, 4), Effort(1, 1)


async def measure(field: Field, effort: Effort) -> Section:
    """Everybody in every round. Raises ``RuntimeError`` at an answer that was not asked for."""
    if not load.has_wrk():
        return section({}, effort, ["TLS is left out: there is no wrk."])
    found, left_out = balancers.find(field)
    cert, key = certificate(field.folder)
    ours = balancers.ours("ours, TLS", {"LB_TLS_CERT": str(cert), "LB_TLS_KEY": str(key)})
    both = field.folder / "both.pem"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    contestants = [OURS, ours, *([balancers.haproxy_tls(both)] if HAPROXY in found else [])]
    return section(await _against(field, effort, contestants), effort, left_out)


def certificate(folder: Path, number: int = 1) -> tuple[Path, Path]:
    """One of this number for an hour, signed by itself: an elliptic curve, as most have. Certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(number)
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


async def _against(field: Field, effort: Effort, contestants: Sequence[Contestant]) -> dict[Cell, list[Seen]]:
    seen: dict[Cell, list[Seen]] = {}
    async with balancers.serving(field) as upstream, _all_running(field, upstream, contestants) as running:
        file = wants.file_of(wants.POST, field.folder)
        for number in range(effort.rounds):
            for balancer in running:
                name = balancer.contestant.name
                scheme = "http" if balancer.contestant is OURS else "https"
                with stopped(other.pid for other in running if other is not balancer):
                    watched = {load.SERVER: balancer.pid, "upstream": upstream.pid}
                    one = await loop.through(name, balancer.port, file, effort.seconds, watched, scheme=scheme)
                seen.setdefault(Cell("POST", name), []).append(one)
                field.say(f"tls, round {number + 1}: {name}: {one.rate:,.0f}/s, CPU {one.cpu_us[load.SERVER]:.1f} us")
    return seen


@asynccontextmanager
async def _all_running(
    field: Field, upstream: Upstream, contestants: Sequence[Contestant]
) -> AsyncIterator[list[Balancer]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(balancers.running(one, field, upstream)) for one in contestants]


def section(seen: Loads, effort: Effort, left_out: Sequence[str]) -> Section:
    """The table and every round; no bar, for there is none. Pure."""
    mine = next((loads for cell, loads in seen.items() if cell.balancer == "ours, TLS"), None)
    return Section(
        "TLS at the balancer's port",
        HEADER,
        [row(cell, loads, None if cell.balancer in {OURS.name, "ours, TLS"} else mine) for cell, loads in seen.items()],
        [
            (
                f"TLS: {effort.rounds} rounds of {effort.seconds} s, {load.CONNECTIONS} kept connections of wrk's, TLS 1.3, one"
                " certificate (P-256); the first row is the same request without TLS, in the same rounds."
            ),
            *left_out,
        ],
        [],
        raw(seen),
    )
