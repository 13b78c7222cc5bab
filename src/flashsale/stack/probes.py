# Is it ready? Asked in the service's own protocol: a port that accepts may belong to a server that still recovers.
from __future__ import annotations

import asyncio
import struct

PROBE_S = 5.0  # one question may take this long; the supervisor asks again until its own deadline
POSTGRES_PROTOCOL = 196_608  # 3.0
AMQP_GREETING = b"AMQP\x00\x00\x09\x01"


async def postgres_answers(host: str, port: int) -> bool:
    """Does it ask for a password? While starting or recovering it refuses instead."""
    body = struct.pack("!i", POSTGRES_PROTOCOL) + b"user\x00probe\x00database\x00postgres\x00\x00"
    return await _ask(host, port, struct.pack("!i", len(body) + 4) + body, 1) == b"R"


async def redis_answers(host: str, port: int, password: str) -> bool:
    """Does it answer PING? While loading its file it does not."""
    auth = f"*2\r\n$4\r\nAUTH\r\n${len(password)}\r\n{password}\r\n"
    return await _ask(host, port, f"{auth}*1\r\n$4\r\nPING\r\n".encode(), 12) == b"+OK\r\n+PONG\r\n"


async def amqp_answers(host: str, port: int, *, tls: bool = False) -> bool:
    """Does it open the handshake (a method frame on channel 0, Connection.Start)?"""
    frame = await _ask(host, port, AMQP_GREETING, 11, tls=tls)
    return frame[:3] == b"\x01\x00\x00" and frame[7:] == b"\x00\x0a\x00\x0a"


async def epmd_answers(host: str, port: int) -> bool:
    """Does the Erlang port mapper list its names (NAMES_REQ)?"""
    return await _ask(host, port, b"\x00\x01n", 4) == struct.pack("!i", port)


async def role_is_ready(host: str, port: int) -> bool:
    """Does `/readyz` on its operations port say 200?"""
    request = f"GET /readyz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    return (await _ask(host, port, request.encode(), 12)).endswith(b" 200")


async def _ask(host: str, port: int, question: bytes, answer_bytes: int, *, tls: bool = False) -> bytes:
    # The first bytes of the answer, or nothing: every way of not answering is the same here.
    writer = None
    try:
        async with asyncio.timeout(PROBE_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=tls or None)
            writer.write(question)
            return await reader.readexactly(answer_bytes)
    except (OSError, TimeoutError, EOFError):
        return b""
    finally:
        if writer is not None:
            writer.transport.abort()
