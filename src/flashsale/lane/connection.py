"""One client's connection: plain requests are worked on side by side and answered in order, the others go behind, one at a time.
Those that carry a number are answered with it as soon as may be, in any order.

The protocol behind (aiohttp's) is made when the first such request comes, and is given a transport that is ours: what it writes
is read along, so that its answer's end shows and the next request can be the lane's again. What cannot be told apart that
way, a body in chunks, a wish to close, a head that nobody understands, is given to it *for good*: from there on its bytes
and its client's pass through.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from flashsale.lane.answer import Answer, encode
from flashsale.lane.promised import Promised
from flashsale.lane.sequence import SEQUENCE_FIELD, is_sequence
from loadbalancer.http1.grammar import HEAD_BYTES_MAX, LINE_BYTES_MAX, Refused
from loadbalancer.http1.head import RequestHead, ResponseHead, parse_request
from loadbalancer.http1.reader import END, ResponseReader

if TYPE_CHECKING:
    from flashsale.lane.listener import Listener

WORKED_ON_MAX = 64  # of one connection; further pipelined requests wait where they are
UNREAD_BYTES_MAX = 64 * 1024  # waiting requests; past this the client's socket is not read
HEAD_END = b"\r\n\r\n"


class _Slot:
    """The place of an answer in the order of questions; holds who promised it."""

    __slots__ = ("answer", "connection", "promised", "sequence")

    def __init__(self, connection: "Connection", promised: Promised | None, sequence: str | None) -> None:
        self.connection = connection
        self.promised = promised
        self.sequence = sequence
        self.answer: bytes | None = None

    def tell(self, answer: Answer | None) -> None:
        """Here it is."""
        self.connection.answered(self, answer)


class Connection(asyncio.Protocol):
    """See above. ``heard`` is the tick of the last sign of life."""

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._unread = b""
        self._slots: deque[_Slot] = deque()
        self._out: list[bytes] = []
        self._behind: asyncio.Protocol | None = None
        self._passed: ResponseReader | None = None  # the answer that the protocol behind owes
        self._is_for_good = False
        self._is_blocked = False  # the client does not take what it is told
        self._is_paused = False  # and we do not read what it says
        self._told_blocked = False
        self._is_due = False  # to be flushed at the end of this loop turn
        self.heard = listener.now

    @property
    def is_asked(self) -> bool:
        """Is an answer owed, other than what the protocol behind does for good?"""
        return bool(self._slots or self._out) or (self._passed is not None and not self._is_for_good)

    @property
    def _is_open(self) -> bool:
        # uvloop raises for what asyncio lets pass: a word to a connection that ended and has not told us yet
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client."""
        self._transport = cast("asyncio.Transport", transport)
        self._listener.opened(self, self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It left. What it asked for goes on: a purchase is not undone by a closed window."""
        self._transport = None
        self._slots.clear()
        self._unread = b""  # an answer may have asked for a flush this turn, which would go on with what is unread
        self._out = []
        self._listener.closed(self)
        if self._behind is not None:
            self._behind.connection_lost(exc)
            self._behind = None

    def data_received(self, data: bytes) -> None:
        """Requests, or parts of them."""
        self.heard = self._listener.now
        if self._is_for_good and self._behind is not None:
            self._behind.data_received(data)
            return
        if self._listener.is_draining:
            return  # never begun; but taken off the socket, or closing it would reset the answers before it
        self._unread = self._unread + data if self._unread else data
        self._advance()

    def eof_received(self) -> bool | None:
        """The client says no more; as everywhere here, that counts as gone."""
        return self._behind.eof_received() if self._is_for_good and self._behind is not None else None

    def pause_writing(self) -> None:
        """The client does not read."""
        self._is_blocked = True
        if self._behind is not None:
            self._told_blocked = True
            self._behind.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._is_blocked = False
        if self._told_blocked and self._behind is not None:
            self._behind.resume_writing()
        self._told_blocked = False
        self._advance()

    def answered(self, slot: _Slot, answer: Answer | None) -> None:
        """Of a slot of this connection; None: it never will be."""
        slot.promised = None  # which holds the slot: left to the collector, such rings would call it often
        try:
            if answer is not None:
                slot.answer = encode(answer, self._tail(slot.sequence))
        finally:
            self._listener.answered(slot)
            if slot.answer is None and self._transport is not None:
                self._transport.abort()  # no answer may take this one's place
        if slot.sequence is not None and slot.answer is not None and slot in self._slots:
            # Who numbers the requests knows the answers by it: this one need not wait for those in front.
            self._slots.remove(slot)
            self._out.append(slot.answer)
            self._flush_soon()
        elif self._slots and self._slots[0] is slot:
            self._flush_soon()

    def flush(self) -> None:
        """Write what is answered, in order and at once, then go on with what waits."""
        self._is_due = False
        while self._slots and (answer := self._slots[0].answer) is not None:
            self._slots.popleft()
            self._out.append(answer)
        self._write()
        if self._unread:
            self._advance()
        if self._listener.is_draining:
            self.end_if_idle()

    def give_up(self) -> None:
        """Half a request has waited long enough."""
        if not (self._slots or self._passed or self._is_blocked):
            self._give()

    def release(self) -> None:
        """The protocol behind, which has the client for good, gave it away: nothing of it is the lane's any more."""
        self._transport = self._behind = None
        self._listener.closed(self)

    def end_if_idle(self) -> None:
        """Close unless something is owed, or the protocol behind has it for good."""
        if self._transport is not None and not self._is_for_good and not self.is_asked:
            self._transport.close()

    def end_if_asked(self) -> None:
        """Close although something is owed."""
        if self._transport is not None and self.is_asked:
            self._transport.close()

    def _advance(self) -> None:
        while (
            self._unread
            and self._is_open
            and not (self._passed or self._is_blocked or self._is_for_good)
            and len(self._slots) < WORKED_ON_MAX
            and self._take()
        ):
            pass
        if self._out:
            self._flush_soon()
        if self._unread:
            self._listener.partial.add(self)
        else:
            self._listener.partial.discard(self)
        self._read(more=len(self._unread) < UNREAD_BYTES_MAX)

    def _flush_soon(self) -> None:
        # Not at once, although the answer is known: a write wakes whoever reads it, who may have gone to sleep since the last one,
        # and to wake somebody costs more than the rest of a write. At the end of the turn there is one write behind the other.
        if not self._is_due:
            self._is_due = True
            self._listener.flush_soon(self)

    def _write(self) -> None:
        if self._out and self._is_open and self._transport is not None:
            self._transport.write(b"".join(self._out))
        self._out = []

    def _take(self) -> bool:
        # Requests off what is unread; False when there is no whole one, or it must wait its turn.
        if self._unread.startswith(self._listener.line):
            is_full = self._listener.route.is_full(len(self._listener.working))
            if (is_full and self._shed()) or self._take_plain(is_full=is_full):
                return True
        return self._take_other()

    def _take_plain(self, *, is_full: bool) -> bool:
        # All that are plain and whole, until there are enough; when there are too many already, nothing ends meanwhile either.
        unread, listener, at = self._unread, self._listener, 0
        text, route, whole = unread.decode("latin-1"), listener.route, len(unread)
        while at < whole and (head := listener.read(text, at)) is not None:
            digits, _, _, *values, sequence = head.groups()
            body_from, length = head.end(), int(digits)
            ends = body_from + length
            if length > route.body_bytes_max or body_from - at > LINE_BYTES_MAX or ends > whole:
                break
            at = ends
            if is_full:
                route.shed(1)
                self._told(route.busy, sequence)
                continue
            begun = route.begin(values, unread[body_from:ends])
            if isinstance(begun, Answer):
                self._told(begun, sequence)
                continue
            slot = _Slot(self, begun, sequence if sequence is not None and is_sequence(sequence) else None)
            begun.tell = slot.tell
            listener.working.add(slot)
            self._slots.append(slot)
            if at == whole or len(self._slots) >= WORKED_ON_MAX or route.is_full(len(listener.working)):
                break
        self._unread = unread[at:]
        return at > 0

    def _shed(self) -> bool:
        # Whoever is one too many is told so with everybody behind who would be as well: nothing is begun meanwhile, so nothing ends.
        # What took 9 us each, when every request was read, sliced off and answered by itself, takes 2.
        unread, at, count = self._unread, 0, 0
        body_bytes_max = self._listener.route.body_bytes_max
        while (found := self._listener.skim(unread, at)) is not None:
            length, body_from = int(found[1]), found.end()
            if length > body_bytes_max or body_from - at > LINE_BYTES_MAX or body_from + length > len(unread):
                break
            at = body_from + length
            count += 1
        if not count:
            return False
        self._unread = unread[at:]
        self._listener.route.shed(count)
        self._say(encode(self._listener.route.busy, self._listener.tail) * count)
        return True

    def _take_other(self) -> bool:
        # One that is not plain, or not whole.
        ends = self._unread.find(HEAD_END, 0, HEAD_BYTES_MAX) + len(HEAD_END)
        if ends < len(HEAD_END):
            return len(self._unread) >= HEAD_BYTES_MAX and self._give_in_turn()
        raw = self._unread[:ends]
        try:
            head = parse_request(raw, self._listener.route.body_bytes_max)
        except Refused:
            return self._give_in_turn()
        if head.framing.length is None or head.expects_continue or head.closes or head.nominated:
            return self._give_in_turn()
        ends += head.framing.length
        return len(self._unread) >= ends and self._pass(head, ends)

    def _told(self, answer: Answer, sequence: str | None) -> None:
        # known at once
        if sequence is not None and is_sequence(sequence):
            self._out.append(encode(answer, self._tail(sequence)))
        else:
            self._say(encode(answer, self._listener.tail))

    def _say(self, answer: bytes) -> None:
        # in its turn
        if not self._slots:
            self._out.append(answer)
            return
        slot = _Slot(self, None, None)
        slot.answer = answer
        self._slots.append(slot)

    def _tail(self, sequence: str | None) -> bytes:
        if sequence is None:
            return self._listener.tail
        return b"%b%b" % (self._listener.tail, f"{SEQUENCE_FIELD}: {sequence}\r\n".encode())

    def _pass(self, head: RequestHead, ends: int) -> bool:
        if self._slots:
            return False  # its answer may not overtake theirs
        self._write()
        raw, self._unread = self._unread[:ends], self._unread[ends:]
        self._passed = ResponseReader(head.method)
        self._adopt().data_received(raw)
        return True

    def _give_in_turn(self) -> bool:
        if not self._slots:
            self._write()
            self._give()
        return False

    def _give(self) -> None:
        for_good, self._unread = self._unread, b""
        self._is_for_good = True
        self._listener.partial.discard(self)
        behind = self._adopt()
        self._read(more=True)
        if for_good:
            behind.data_received(for_good)

    def _adopt(self) -> asyncio.Protocol:
        if self._behind is None:
            assert self._transport is not None
            self._behind = self._listener.behind()
            self._behind.connection_made(_Facade(self, self._transport))
        return self._behind

    def _read(self, *, more: bool) -> None:
        if more is not self._is_paused or self._transport is None or not self._is_open:
            return
        self._is_paused = not more
        if more:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # What the protocol behind does, as its transport hears it.

    def read_along(self, data: bytes) -> None:
        """It wrote this."""
        if self._passed is None or self._is_for_good:
            return
        self._passed.feed(data)
        try:
            while (event := self._passed.read()) is not None:
                if isinstance(event, ResponseHead) and event.closes:
                    self._give()
                    return
                if event is END:
                    self._passed = None
                    self._flush_soon()
                    return
        except Refused:
            self._give()

    def leave(self) -> None:
        """It closes: the connection, if it was its turn, and otherwise only its own part in it."""
        if self._transport is not None and (self._is_for_good or self._passed is not None):
            self._transport.close()
        elif self._behind is not None:
            behind, self._behind = self._behind, None
            self._listener.loop.call_soon(behind.connection_lost, None)

    @property
    def is_for_good(self) -> bool:
        """Has the protocol behind the connection to itself?"""
        return self._is_for_good


def hand_over(transport: asyncio.Transport, protocol: asyncio.Protocol) -> asyncio.Transport:
    """Give a client to ``protocol`` for good, past whoever stood before it: the client's own transport.

    Whoever had ``transport`` may not touch it any more.
    """
    if isinstance(transport, _Facade):
        transport = transport.release()
    transport.set_protocol(protocol)
    if not transport.is_reading():  # paused for requests behind that one, which nobody answers now
        transport.resume_reading()
    return transport


class _Facade(asyncio.Transport):
    """The transport of the protocol behind: the client's, but for what the lane must know of."""

    def __init__(self, connection: Connection, transport: asyncio.Transport) -> None:
        super().__init__()
        self._connection = connection
        self._transport = transport

    def release(self) -> asyncio.Transport:
        """What stands behind this, which is nobody's from here on."""
        self._connection.release()
        return self._transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._transport.write(data)
        if not self._connection.is_for_good:
            self._connection.read_along(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def pause_reading(self) -> None:
        # a request that is passed on is whole: there is nothing to hold back but the next, and that is the lane's to do
        if self._connection.is_for_good:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._connection.is_for_good:
            self._transport.resume_reading()

    def close(self) -> None:
        self._connection.leave()

    def abort(self) -> None:
        self._transport.abort()
