"""What a process of the balancer's takes of the machine, as it says of itself."""

import os
import resource
import time
from pathlib import Path
from typing import Any

PAGE_BYTES = resource.getpagesize()
STARTED = time.time()  # when this was imported; of a worker that is when it began


def process() -> dict[str, Any]:
    """CPU time so far, memory now, and when it began."""
    _, resident, *_ = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return {
        "pid": os.getpid(),
        "cpu_seconds": round(time.process_time(), 3),
        "rss_bytes": int(resident) * PAGE_BYTES,
        "started": round(STARTED, 3),
    }
