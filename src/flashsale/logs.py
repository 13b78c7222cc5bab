"""JSON lines on standard output: time, level, role, process, event, and whatever the event carries.

No line per purchase by default: at ten thousand a second the log would be the product. Buyers appear hashed.
"""

import hashlib
import logging
import sys

import structlog
from structlog.tracebacks import ExceptionDictTransformer


def configure(role: str, level: str) -> None:
    """Log as ``role``, ``level`` (debug, info, warning, error) and above; the libraries' own warnings included."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        # without locals: a frame's variables are tokens, keys and buyers
        structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
        _add_role(role),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        ),
    )
    handler.addFilter(_is_ours)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _is_ours(record: logging.LogRecord) -> bool:
    # What aiohttp says of a request it cannot parse quotes the bytes: tokens and buyers, from anybody, a kilobyte a time.
    error = record.exc_info[0] if record.exc_info else None
    return error is None or not error.__module__.startswith("aiohttp.http")


def pseudonym(buyer: str) -> str:
    """A buyer as the log may know them: the same every time, and not readable."""
    return hashlib.blake2b(buyer.encode(), digest_size=6, person=b"log").hexdigest()


def _add_role(role: str) -> structlog.typing.Processor:
    def add(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["role"] = role
        return event

    return add
