"""``python -m tests.mother KIND HANDLE MODULE...``: imports the modules, and then forks for whoever asks. See ``tests/nursery.py``."""

# Nothing here may import what gevent patches before it is patched; and what waits is the system's, and not gevent's.
import _socket
import array
import contextlib
import gc
import importlib.util
import json
import os
import resource
import runpy
import signal
import sys
import traceback
from collections.abc import Sequence
from os import fork, waitpid
from pathlib import Path
from select import select
from typing import Any, NoReturn

PLAIN, GREEN = "plain", "green"
ASKED_BYTES_MAX = 65_536  # a module's name, its environment, and a page of Python
HANDLES = 3  # where it writes to, and its errors, and where its end is told
FIRST_OWN_HANDLE = 3


def import_all(modules: Sequence[str]) -> None:
    """What each would import at its start. Its ``__main__`` is to be run, and so it is not kept."""
    for module in modules:
        found = importlib.util.find_spec(module)
        assert found is not None, module
        name = f"{module}.__main__" if found.submodule_search_locations else module
        importlib.import_module(name)
        del sys.modules[name]
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a thread would not be there in a fork"
    gc.collect()
    gc.freeze()  # or the first collection of each child would copy every page


def bear(requests: _socket.socket) -> str:
    """Fork until nobody can ask any more. In a child, the module that it is to be; in the mother, nothing."""
    from flashsale.stack.processes import dies_with_us  # noqa: PLC0415 - not before the patches

    tie = dies_with_us(signal.SIGKILL)
    children: dict[int, tuple[int, int]] = {}  # by handle: pid, and where its end is told
    while True:
        ready, _, _ = select([requests.fileno(), *children], [], [])
        for handle in ready:
            if handle in children:
                pid, telling = children.pop(handle)
                _, status = waitpid(pid, 0)
                _tell(telling, os.waitstatus_to_exitcode(status))
                os.close(telling)
                os.close(handle)
                continue
            asked, output, errors, telling = _receive(requests)
            if not asked:
                return ""
            pid = fork()
            if not pid:
                tie()
                return _become(json.loads(asked), output, errors)
            children[os.pidfd_open(pid)] = pid, telling
            _tell(telling, pid)
            os.close(output)
            os.close(errors)


def live(module: str) -> NoReturn:
    """``python -m module``, and its end: as Python's own, less the taking apart of every module, which costs twice what a start does."""
    status = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - nobody is above
        traceback.print_exc()
    gc.collect()  # so that what nobody awaited or closed is told
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _receive(requests: _socket.socket) -> tuple[bytes, int, int, int]:
    handles = array.array("i", [-1] * HANDLES)
    asked, attached, _, _ = requests.recvmsg(ASKED_BYTES_MAX, _socket.CMSG_LEN(HANDLES * handles.itemsize))
    for _, _, data in attached:
        handles = array.array("i", data)
    output, errors, telling = handles
    return asked, output, errors, telling


def _become(asked: dict[str, Any], output: int, errors: int) -> str:
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.closerange(FIRST_OWN_HANDLE, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    resource.setrlimit(resource.RLIMIT_NOFILE, asked["files"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    exec(asked["first"], {})  # noqa: S102 - the test's own words
    return str(asked["module"])


def _tell(telling: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the test has ended without it
        os.write(telling, b"%d\n" % number)


if __name__ == "__main__":
    _, kind, asking, *modules = sys.argv
    del sys.argv[1:]
    if kind == GREEN:
        from gevent import monkey

        monkey.patch_all()
    import_all(modules)
    if module := bear(_socket.socket(fileno=int(asking))):
        live(module)
