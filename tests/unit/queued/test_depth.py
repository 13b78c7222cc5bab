"""How deep the queues are: asked once until it is answered, unknown without a channel, and never at the price of another's."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from flashsale.queued import depth, topology
from flashsale.queued.depth import Depth

QUEUES = [queue.name for queue in topology.SHARD_QUEUES]


class Broker:
    """A connection and its channels; answers when it is told to."""

    is_open = True

    def __init__(self) -> None:
        self.asked: list[tuple[str, Callable[[Any], None]]] = []
        self.channels: list[SimpleNamespace] = []
        self.closes: list[Callable[[Any, object], None]] = []

    def channel(self, on_open_callback: Callable[[Any], None]) -> None:
        made = SimpleNamespace(
            is_open=True, connection=self, add_on_close_callback=self.closes.append, queue_declare=self._ask
        )
        self.channels.append(made)
        on_open_callback(made)

    def answer(self, messages: int) -> None:
        asked, self.asked = self.asked, []
        for queue, callback in asked:
            callback(SimpleNamespace(method=SimpleNamespace(queue=queue, message_count=messages)))

    def _ask(self, queue: str, *, passive: bool, callback: Callable[[Any], None]) -> None:
        assert passive
        self.asked.append((queue, callback))


@pytest.fixture
def told() -> dict[str, float]:
    return {}


@pytest.fixture
def looking(told: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> Depth:
    monkeypatch.setattr(depth, "LOOK_SECONDS", 3600.0)  # the test looks
    return Depth(told.__setitem__)


def test_it_is_told_by_queue_and_asked_again_only_once_it_is_answered(looking: Depth, told: dict[str, float]) -> None:
    broker = Broker()
    looking.open(broker)
    looking._look()
    looking._look()
    assert [queue for queue, _ in broker.asked] == QUEUES
    broker.answer(7)
    assert told == dict.fromkeys(QUEUES, 7)
    looking._look()
    assert len(broker.asked) == len(QUEUES)


def test_without_a_connection_nobody_knows(looking: Depth, told: dict[str, float]) -> None:
    assert [*told] == QUEUES
    assert all(map(math.isnan, told.values()))
    broker = Broker()
    looking.open(broker)
    looking._look()
    broker.answer(7)
    looking.lost()
    assert all(map(math.isnan, told.values()))
    looking._look()
    assert not broker.asked
    # what the last connection left unanswered keeps nobody from asking the next
    looking.open(broker)
    looking._look()
    looking.lost()
    looking.open(broker)
    broker.asked.clear()
    looking._look()
    assert len(broker.asked) == len(QUEUES)


def test_a_queue_that_is_not_there_ends_one_channel_and_another_is_opened(
    looking: Depth, told: dict[str, float]
) -> None:
    broker = Broker()
    looking.open(broker)
    broker.closes[-1](broker.channels[-1], "404")
    assert len(broker.channels) == 2
    assert all(map(math.isnan, told.values()))
    broker.is_open = False
    broker.closes[-1](broker.channels[-1], "gone")
    assert len(broker.channels) == 2


def test_it_looks_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth, "LOOK_SECONDS", 0.01)
    looking, broker = Depth(lambda *_: None), Broker()
    looking.open(broker)
    with gevent.Timeout(60):
        while not broker.asked:
            gevent.sleep(0.01)
    looking.close()
    broker.answer(1)
    gevent.sleep(0.05)
    assert not broker.asked
