"""Composition root: the only file that opens listeners. Starts in the order of need, stops in reverse."""

import asyncio
import contextlib
import logging
import resource
import signal
import sys

from loadbalancer.admin import Admin
from loadbalancer.client import ClientConnection
from loadbalancer.config import Config
from loadbalancer.logs import say
from loadbalancer.metrics import Totals
from loadbalancer.probe import Checks
from loadbalancer.proxy import Proxy
from loadbalancer.servers import Farm

BACKLOG = 4096  # an opening rush connects faster than one loop turn accepts


def allow_files(clients_max: int) -> None:
    """Take as many file descriptors as this process may: each client can cost two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < 2 * clients_max:
        say("loadbalancer.few_files", level=logging.WARNING, limit=hard, clients_max=clients_max, cure="ulimit -n")


class UncheckedError(Exception):
    """A server was not checked any more; what was up would have stayed up for ever."""


async def serve(config: Config) -> None:
    """
    Serve until SIGTERM or SIGINT, then drain. Raises OSError if a port cannot be had; UncheckedError if the checks of a server
    ended by themselves, once drained as after SIGTERM.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)

    allow_files(config.clients_max)
    farm = Farm(config, later=loop.call_soon)
    proxy = Proxy(config, farm, Totals(), sys.stdout if config.access_log == "on" else None)
    ops = await asyncio.start_server(Admin(proxy).serve, "127.0.0.1", config.ops_port)
    traffic = await loop.create_server(lambda: ClientConnection(proxy), config.host, config.port, backlog=BACKLOG)
    checks = Checks(proxy)
    port, ops_port = (server.sockets[0].getsockname()[1] for server in (traffic, ops))
    say("loadbalancer.started", host=config.host, port=port, ops_port=ops_port)

    reasons = {asyncio.create_task(reason.wait()) for reason in (stopping, checks.failed)}
    await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
    for reason in reasons:
        reason.cancel()
    unchecked = list(checks.ended)
    for watch in unchecked:
        say("server.unchecked", level=logging.ERROR, error=watch.exception(), server=watch.get_name())
    say("loadbalancer.draining", clients=len(proxy.clients))
    traffic.close()  # 1. no new connection
    proxy.drain()  # 2. let go who is idle
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(config.grace):
            await proxy.is_empty.wait()  # 3. answer what was asked
    await checks.close()
    cut = proxy.close()  # 4. whoever is still here has had the grace
    ops.close()
    say("loadbalancer.stopped", level=logging.WARNING if cut else logging.INFO, cut=cut)
    if unchecked:
        raise UncheckedError(f"checks ended by themselves: {', '.join(watch.get_name() for watch in unchecked)}")
