"""JSON lines on standard error: time, level, role, event, and whatever the event carries."""

import json
import logging
import sys
import time
import traceback


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "role": "loadbalancer",
            "event": record.getMessage(),
            **getattr(record, "data", {}),
        }
        if record.exc_info and record.exc_info[1]:
            line["exception"] = traceback.format_exception(record.exc_info[1])
        return json.dumps(line)


def configure() -> None:
    """Everything from info upwards, the libraries' own warnings included."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("loadbalancer").setLevel(logging.INFO)


def say(event: str, *, level: int = logging.INFO, error: BaseException | None = None, **data: object) -> None:
    """One line; with ``error``, where that came from."""
    logging.getLogger("loadbalancer").log(level, event, exc_info=error, extra={"data": data})
