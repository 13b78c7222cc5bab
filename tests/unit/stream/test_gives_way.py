"""A process of viewers alone lets the others go first: within its session, and among sessions where it has one of its own."""

import os
import subprocess
import sys
from pathlib import Path

from flashsale.settings import REPOSITORY
from flashsale.stream.__main__ import GIVES_WAY
from tests.patience import PATIENCE_SECONDS

AUTOGROUP = Path("/proc/self/autogroup")  # "/autogroup-7 nice 0"; there is none where the kernel has no such thing
TELLS = f"""
from pathlib import Path
import os
from flashsale.stream.__main__ import give_way
before = os.nice(0)
give_way()
path = Path("{AUTOGROUP}")
print(os.nice(0) - before, path.read_text() if path.exists() else "nice {GIVES_WAY}")
"""


def told(*, session: bool) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", TELLS],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
        start_new_session=session,
    )
    return done.stdout.split()


def test_who_has_a_session_of_its_own_gives_way_among_sessions() -> None:
    first, *_, last = told(session=True)
    assert (first, last) == (str(GIVES_WAY), str(GIVES_WAY))


def test_who_has_not_leaves_those_in_it_alone() -> None:
    before = AUTOGROUP.read_text() if AUTOGROUP.exists() else ""
    assert told(session=False)[0] == str(GIVES_WAY)
    assert (AUTOGROUP.read_text() if AUTOGROUP.exists() else "") == before
