"""An attempt as the bytes of its publication: a method frame, a header frame and a body frame, put together by hand.

The driver builds five objects and some forty pieces for each message. Of all those bytes only four texts and two lengths are the
attempt's own, so the rest is made once per channel. Where a field's length varies it is padded, or it would move the others.
"""

import struct

from flashsale.amqp import BASIC, BODY, END, FRAME, HEADER, METHOD, framed, short
from flashsale.queued import topology

_PUBLISH = struct.pack(">HHHB", BASIC, 40, 0, 0)  # basic.publish, to the exchange without a name
_MANDATORY = b"\x01"
_FLAGS = 1 << 13 | 1 << 12 | 1 << 10 | 1 << 7  # headers, delivery mode, correlation id, message id
_ID_CHARS, _TAG_DIGITS = 36, 19  # a UUID's, and those of the largest tag


class Frames:
    """Publications on one channel."""

    def __init__(self, channel: int, queues: list[str]) -> None:
        entry = short(topology.PURCHASE_HEADER) + b"S" + struct.pack(">I", _ID_CHARS)
        table = struct.pack(">I", len(entry) + _ID_CHARS) + entry
        self._to_purchase = struct.pack(">H", _FLAGS) + table
        self._to_tag = bytes([topology.PERSISTENT, _TAG_DIGITS])
        self._to_rid = bytes([_ID_CHARS])
        header = struct.pack(">HH", BASIC, 0)
        size = len(header) + 8 + len(self._to_purchase) + _ID_CHARS + len(self._to_tag) + _TAG_DIGITS + 1 + _ID_CHARS
        self._to_body_size = {
            queue: framed(METHOD, channel, _PUBLISH + short(queue) + _MANDATORY)
            + FRAME.pack(HEADER, channel, size)
            + header
            for queue in queues
        }
        self._channel = channel

    def of(self, queue: str, body: bytes, tag: int, rid: str, purchase: str) -> bytes:
        """All three. ``body`` fits into one frame of any broker's: an attempt has half of the least that they must take."""
        # the padding of the tag is zeros: a return brings it back, and it is read as a number
        return b"".join(
            (
                self._to_body_size[queue],
                len(body).to_bytes(8),
                self._to_purchase,
                purchase.encode(),
                self._to_tag,
                b"%019d" % tag,
                self._to_rid,
                rid.encode(),
                END,
                FRAME.pack(BODY, self._channel, len(body)),
                body,
                END,
            )
        )
