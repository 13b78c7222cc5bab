"""However the broker's bytes are cut, deliveries are taken whole and in order, and everything else is the driver's as it came."""

import asyncio
import random
import uuid
from typing import Any

import pytest
from pamqp import base, body, commands, frame, header, heartbeat

from flashsale.queued import deliveries
from flashsale.queued.deliveries import Delivery, Tap

OURS, THEIRS = 3, 5


BODY_MAX = 7  # of a frame


def content(channel: int, method: base.Frame, payload: bytes, **properties: Any) -> bytes:
    parts = [payload[at : at + BODY_MAX] for at in range(0, len(payload), BODY_MAX)]
    head = header.ContentHeader(0, len(payload), commands.Basic.Properties(**properties))
    frames = [frame.marshal(method, channel), frame.marshal(head, channel)]
    return b"".join(frames + [frame.marshal(body.ContentBody(part), channel) for part in parts])


def delivery(channel: int, tag: int, payload: bytes, *, again: bool = False, **properties: Any) -> bytes:
    method = commands.Basic.Deliver(f"ctag{tag}", tag, again, "", "checkout.0")
    return content(channel, method, payload, **properties)


class Driver(asyncio.Protocol):
    def __init__(self) -> None:
        self.heard = b""
        self.calls: list[str] = []

    def data_received(self, data: bytes) -> None:
        # never half a frame, or what is put in between would tear it
        rest = data
        while rest:
            taken, _, _ = frame.unmarshal(rest)
            rest = rest[taken:]
        self.heard += data

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append(f"lost {exc}")

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")


@pytest.fixture(autouse=True)
def _no_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "HEARTBEAT_SECONDS", float("inf"))


OTHERS = (
    frame.marshal(heartbeat.Heartbeat(), 0),
    frame.marshal(commands.Basic.ConsumeOk("ctag"), OURS),
    frame.marshal(commands.Basic.Cancel("ctag"), OURS),
    delivery(THEIRS, 1, b"not ours"),
    content(OURS, commands.Basic.Return(312, "NO_ROUTE", "", "nowhere"), b"returned to us"),
    frame.marshal(commands.Channel.Close(404, "gone", 0, 0), THEIRS),
)
BODIES = (b"", b"short", b"a body of several frames", bytes(range(256)))


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_cuts(seed: int) -> None:
    dice = random.Random(seed)
    stream, others, expected = b"", b"", []
    for tag in range(1, 30):
        payload = dice.choice(BODIES)
        again = dice.random() < 0.5
        stream += delivery(OURS, tag, payload, again=again)
        expected.append((tag, again, payload))
        if dice.random() < 0.5:
            other = dice.choice(OTHERS)
            stream, others = stream + other, others + other
    driver, taken = Driver(), list[Delivery]()
    tap = Tap(driver)
    tap.take(OURS, taken.append)
    while stream:
        cut = dice.choice((1, 2, 7, 8, 30, 1_000))
        tap.data_received(stream[:cut])
        stream = stream[cut:]
    assert [(one.tag, one.is_redelivered, one.body) for one in taken] == expected
    assert driver.heard == others


def test_frames_of_two_channels_may_lie_between_each_other() -> None:
    one, other = delivery(OURS, 1, b"ours"), delivery(OURS + 1, 1, b"the other's")
    frames: list[list[bytes]] = [[], []]
    for stream, into in ((one, frames[0]), (other, frames[1])):
        rest = stream
        while rest:
            size, _, _ = frame.unmarshal(rest)
            into.append(rest[:size])
            rest = rest[size:]
    taken: list[tuple[int, bytes]] = []
    tap = Tap(Driver())
    tap.take(OURS, lambda found: taken.append((OURS, found.body)))
    tap.take(OURS + 1, lambda found: taken.append((OURS + 1, found.body)))
    tap.data_received(b"".join(part for pair in zip(*frames, strict=False) for part in pair))
    tap.data_received(b"".join(frames[1][len(frames[0]) :]))
    assert taken == [(OURS, b"ours"), (OURS + 1, b"the other's")]


def test_who_must_know_more_can_ask() -> None:
    rid, taken = str(uuid.uuid4()), list[Delivery]()
    tap = Tap(Driver())
    tap.take(OURS, taken.append)
    tap.data_received(delivery(OURS, 1, b"?", message_id=rid, headers={"purchase": "p"}))
    tap.data_received(delivery(OURS, 2, b"?"))
    assert taken[0].properties.message_id == rid
    assert taken[0].properties.headers == {"purchase": "p"}
    assert taken[1].properties.message_id is None


def test_a_broker_that_delivers_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "HEARTBEAT_SECONDS", 0.0)
    driver = Driver()
    tap = Tap(driver)
    tap.take(OURS, lambda _: None)
    tap.data_received(delivery(OURS, 1, b"a")[:-3])
    assert driver.heard == frame.marshal(heartbeat.Heartbeat(), 0)


def test_a_handshake_is_heard_as_it_was_said() -> None:
    driver = Driver()
    tap = Tap(driver)
    for other in OTHERS:
        tap.data_received(other)
    assert driver.heard == b"".join(OTHERS)


def test_the_end_and_the_pace_are_the_driver_s() -> None:
    driver = Driver()
    tap = Tap(driver)
    tap.pause_writing()
    tap.resume_writing()
    assert tap.eof_received()
    tap.connection_lost(OSError("gone"))
    assert driver.calls == ["pause", "resume", "eof", "lost gone"]
