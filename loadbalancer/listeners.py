"""The sockets clients connect to, one set per worker. The parent makes and keeps them; a worker borrows its own.

With SO_REUSEPORT the kernel spreads connections over the sockets, each with a queue of its own, and resets what is queued when
a socket is closed for good. Kept by the parent, a socket and its queue outlive the worker that accepted from it, and its
successor goes on where it stopped.
"""

import contextlib
import os
import socket
import stat
from pathlib import Path

BACKLOG = 4096  # an opening rush connects faster than one loop turn accepts


def listen(host: str, port: int, workers: int) -> list[list[socket.socket]]:
    """For each worker one socket per address of ``host``. Raises OSError if somebody else has the port."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sets: list[list[socket.socket]] = [[] for _ in range(workers)]
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            for number, sockets in enumerate(sets):
                made = socket.socket(family, socket.SOCK_STREAM)
                sockets.append(made)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                # The first is bound without the option and so fails where another program listens, with the option or
                # without: two balancers on one port would share its clients in silence.
                if number:
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                made.bind((address[0], port, *address[2:]))
                if not number and workers > 1:
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                port = port or made.getsockname()[1]
        for sockets in sets:
            for made in sockets:
                made.listen(BACKLOG)
                made.setblocking(False)
    except OSError:
        close(sets)
        raise
    return sets


def close(sets: list[list[socket.socket]]) -> None:
    """No more connections."""
    for sockets in sets:
        for made in sockets:
            made.close()


def listen_at(path: str) -> socket.socket:
    """A unix socket for its owner alone. Raises OSError if another balancer listens there, or a file is in its place."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(Path(path).lstat().st_mode) and not _answers(path):
            Path(path).unlink()  # of a balancer that was killed
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        made.bind(path)
        made.listen()
    except OSError as error:
        made.close()
        raise OSError(error.errno, f"{path}: {error.strerror}") from None
    finally:
        os.umask(before)
    made.setblocking(False)
    return made


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
        return True
