"""Bytes of one connection in, events out: a head, then pieces of the body, then END; of every message in turn.

The events say the same however the bytes were split. Nothing is read ahead of what is asked for, so whoever stops
calling ``read`` leaves a pipelined request where it is.
"""

from enum import Enum
from typing import Literal

from loadbalancer.http1 import grammar
from loadbalancer.http1.body import Body, ChunkedBody, EndlessBody, LengthBody
from loadbalancer.http1.grammar import HEAD_BYTES_MAX, Refused
from loadbalancer.http1.head import UNTIL_CLOSE, Framing, RequestHead, ResponseHead, parse_request, parse_response

INTERIM_MAX = 8  # answers of 1xx before the real one


class Mark(Enum):
    """What an event can be beside a head and bytes."""

    END = "end of a message"


END = Mark.END
End = Literal[Mark.END]


class _Lines:
    """The bytes not yet understood, and how far they have been looked at."""

    __slots__ = ("_judged", "_lines", "_of_request", "_searched", "data")

    def __init__(self, *, of_request: bool) -> None:
        self.data = b""
        self._of_request = of_request
        self._forget()

    def _forget(self) -> None:
        self._searched = self._judged = self._lines = 0

    def take_head(self) -> bytes | None:
        """The bytes up to an empty line, or None while there is none. Raises Refused for what is already wrong."""
        end = self.data.find(b"\r\n\r\n", max(0, self._searched - 3), HEAD_BYTES_MAX) + 4
        if end < 4:
            self._searched = len(self.data)
            self._judge()
            return None
        head, self.data = self.data[:end], self.data[end:]
        self._forget()
        return head

    def _judge(self) -> None:
        # Without this, a client that ends its lines with LF alone would hear of it only when its time is up.
        seen = min(len(self.data), HEAD_BYTES_MAX)
        while end := self.data.find(b"\n", self._judged, seen) + 1:
            line = self.data[self._judged : end]
            grammar.judge_line(line, self._lines, of_request=self._of_request)
            self._judged = end
            self._lines += 1
        grammar.judge_length(seen - self._judged, self._lines, of_request=self._of_request)
        if seen == HEAD_BYTES_MAX:
            raise Refused(431, f"the head is larger than {HEAD_BYTES_MAX} bytes")


class RequestReader:
    """The requests of one client's connection."""

    __slots__ = ("_body", "_body_bytes_max", "_may_skip", "_rest")

    def __init__(self, body_bytes_max: int) -> None:
        self._rest = _Lines(of_request=True)
        self._body: Body | None = None
        self._body_bytes_max = body_bytes_max
        self._may_skip = True

    @property
    def waiting_bytes(self) -> int:
        """How much has come that was not read yet."""
        return len(self._rest.data)

    def feed(self, data: bytes) -> None:
        """Add what came."""
        self._rest.data = self._rest.data + data if self._rest.data else data

    def take_waiting(self) -> bytes:
        """What has come and was not read, for who reads the next request another way; between two requests only."""
        waiting, self._rest.data = self._rest.data, b""
        return waiting

    def read(self) -> RequestHead | bytes | End | None:
        """The next event, or None until more has come. Raises Refused; nothing may be read after that."""
        if self._body is None:
            return self._read_head()
        if not self._body.done and self._rest.data:
            payload, self._rest.data = self._body.feed(self._rest.data)
            if payload:
                return payload
        if not self._body.done:
            return None
        self._body = None
        return END

    def _read_head(self) -> RequestHead | None:
        if self._may_skip and self._rest.data[:1] == b"\r":
            # RFC 9112, 2.2: old clients send one empty line too many after a body
            if len(self._rest.data) == 1:
                return None
            if self._rest.data[:2] == b"\r\n":
                self._rest.data = self._rest.data[2:]
                self._may_skip = False
        raw = self._rest.take_head() if self._rest.data else None
        if raw is None:
            return None
        head = parse_request(raw, self._body_bytes_max)
        self._may_skip = True
        if head.framing.chunked:
            self._body = ChunkedBody(self._body_bytes_max)
        else:
            self._body = LengthBody(head.framing.length or 0)
        return head


class ResponseReader:
    """The answer to one request. Interim answers come before it, each as a head alone."""

    __slots__ = ("_body", "_interim", "_method", "_rest", "is_done")

    def __init__(self, method: bytes) -> None:
        """``method`` is the request's: what answers HEAD has no body."""
        self._rest = _Lines(of_request=False)
        self._method = method
        self._body: Body | None = None
        self._interim = 0
        self.is_done = False

    @property
    def waiting_bytes(self) -> int:
        """How much has come that was not read yet; after END nothing may."""
        return len(self._rest.data)

    def feed(self, data: bytes) -> None:
        """Add what came."""
        self._rest.data = self._rest.data + data if self._rest.data else data

    def read(self) -> ResponseHead | bytes | End | None:
        """The next event, or None until more has come. Raises Refused; nothing may be read after that."""
        if self.is_done:
            return None
        if self._body is None:
            return self._read_head()
        if not self._body.done and self._rest.data:
            payload, self._rest.data = self._body.feed(self._rest.data)
            if payload:
                return payload
        if not self._body.done:
            return None
        self.is_done = True
        return END

    def eof(self) -> bool:
        """The server closed. Is the answer complete by that?"""
        if isinstance(self._body, EndlessBody):
            self.is_done = True
        return self.is_done

    def _read_head(self) -> ResponseHead | None:
        raw = self._rest.take_head() if self._rest.data else None
        if raw is None:
            return None
        head = parse_response(raw, self._method)
        if head.status == 101:
            raise Refused(400, "a change of protocol that nobody asked for")
        if head.is_interim:
            self._interim += 1
            if self._interim > INTERIM_MAX:
                raise Refused(400, "too many interim answers")
        else:
            self._body = _body(head.framing)
        return head


def _body(framing: Framing) -> Body:
    if framing is UNTIL_CLOSE:
        return EndlessBody()
    return ChunkedBody(None) if framing.chunked else LengthBody(framing.length or 0)
