"""The balancer's own answers: problems (RFC 9457) that say whether something may have happened."""

import json
from http import HTTPStatus
from typing import NamedTuple

from loadbalancer.http1.grammar import Refused

RETRY_AFTER_SECONDS = 1


class Problem(NamedTuple):
    """One answer, apart from the connection it goes out on."""

    status: int
    type: str
    title: str
    detail: str


def nothing_promised(detail: str) -> Problem:
    """No server got a byte of the request."""
    return Problem(503, "/problems/nothing_promised", "No server could be reached", f"{detail}; nothing was promised")


def too_many() -> Problem:
    """More connections from one address than one may have."""
    return Problem(
        429, "about:blank", HTTPStatus(429).phrase, "too many connections from this address; nothing was promised"
    )


def unknown(detail: str) -> Problem:
    """A server got the request, or some of it, and its answer is lost."""
    return Problem(502, "/problems/unknown", "The answer was lost", f"{detail}; {_UNKNOWN}")


def too_slow() -> Problem:
    """A server has the request and did not answer in time."""
    return Problem(
        504, "/problems/unknown", "The answer did not come in time", f"the server may still be at it; {_UNKNOWN}"
    )


def refused(refusal: Refused) -> Problem:
    """The request is not one that is forwarded."""
    return Problem(refusal.status, "about:blank", HTTPStatus(refusal.status).phrase, refusal.detail)


_UNKNOWN = "what became of the request is unknown: send the same key again"


def encode(problem: Problem, *, closes: bool, is_head: bool) -> bytes:
    """The whole answer; without its body if it answers HEAD."""
    body = json.dumps(
        {"type": problem.type, "title": problem.title, "status": problem.status, "detail": problem.detail}
    ).encode()
    lines = [
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
    ]
    if problem.status in {429, 503}:
        lines.append(f"Retry-After: {RETRY_AFTER_SECONDS}")
    if closes:
        lines.append("Connection: close")
    head = "\r\n".join([*lines, "", ""]).encode()
    return head if is_head else head + body
