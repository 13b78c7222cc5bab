"""What every process says of itself."""

import os
import time

import pytest
from prometheus_client import CollectorRegistry

from flashsale.life import Life


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Life(made)
    return made


def test_a_clock_that_is_set_makes_no_new_life(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    began = registry.get_sample_value("process_start_time_seconds")
    now = time.time
    assert began is not None
    assert 0 <= now() - began < 24 * 3600
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    assert registry.get_sample_value("process_start_time_seconds") == began
    assert registry.get_sample_value("flash_process_info", {"pid": str(os.getpid())}) == 1
