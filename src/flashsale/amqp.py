"""Frames of AMQP 0-9-1 (2.3.5, 4.2), for who puts them together or takes them apart beside a driver. Pure."""

import struct

FRAME = struct.Struct(">BHI")  # kind, channel, bytes of the payload; one byte more ends the frame
METHOD, HEADER, BODY = 1, 2, 3
END = b"\xce"
BASIC = 60  # the class of what publishes and delivers


def framed(kind: int, channel: int, payload: bytes) -> bytes:
    """One whole frame."""
    return FRAME.pack(kind, channel, len(payload)) + payload + END


def short(text: str) -> bytes:
    """A short string: at most 255 bytes. Raises ``ValueError``."""
    encoded = text.encode()
    return bytes([len(encoded)]) + encoded
