"""What of a trial is measured, from servers whose latencies are known."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.report import measures
from benchmarks.report.reading import Left, UnreadableError, read
from benchmarks.report.statistics import Value, quantile
from tests import runs


def left(folder: Path, server: runs.Server, **how: float) -> Left:
    made = runs.MadeUp("peak", {"A": server}, blocks=1, noise_blocks=0, **how)  # type: ignore[arg-type]
    return read(runs.write(folder, [made])).trials[0]


def measured(folder: Path, server: runs.Server, **how: float) -> dict[str, Value | None]:
    one = left(folder, server, **how)
    resources = one.frame("resources")
    used = measures.used(resources)
    return measures.values(one.trial, one.frame("requests"), used.cpu_s, measures.peak_memory(resources))


def test_a_constant_is_that_constant_at_every_quantile(tmp_path: Path) -> None:
    found = measured(tmp_path, runs.constant(40))
    for key in ("response_mean", "response_p50", "response_p95", "response_p99"):
        value = found[key]
        assert value is not None
        assert value.number == pytest.approx(40, abs=0.001)
        assert not value.is_bound
    assert found["errors"] == Value(0.0)


@pytest.mark.parametrize(("share", "p95", "p99"), [(0.1, 200, 200), (0.02, 10, 200), (1 / 400, 10, 10)])
def test_a_label_is_its_quantile(tmp_path: Path, share: float, p95: float, p99: float) -> None:
    """A well-known comparison of frameworks printed its p95 as p99 for years."""
    found = measured(tmp_path, runs.bimodal(10, 200, share))
    assert found["response_p95"] == Value(pytest.approx(p95, abs=0.001))  # type: ignore[arg-type]
    assert found["response_p99"] == Value(pytest.approx(p99, abs=0.001))  # type: ignore[arg-type]


def test_a_second_of_silence_is_everybodys_who_came_in_it(tmp_path: Path) -> None:
    """Half of two seconds: a generator that waited for its answers would have seen one slow request."""
    one = left(tmp_path, runs.stalled(5, at_s=0.5, for_s=1.0))
    waits = measures.waits(one.frame("requests"))
    assert np.mean(waits.times > 100) == pytest.approx(0.45, abs=0.03)
    median = quantile(waits.times, waits.never, 0.5)
    assert median is not None
    assert median.number == pytest.approx(5, abs=60)
    p95 = quantile(waits.times, waits.never, 0.95)
    assert p95 is not None
    assert p95.number == pytest.approx(905, abs=40)


def test_one_of_fifty_without_a_verdict_is_beyond_p99_and_counted(tmp_path: Path) -> None:
    found = measured(tmp_path, runs.dropping(10, every=50))
    assert found["response_p99"] == Value(pytest.approx(10, abs=0.001), is_bound=True)  # type: ignore[arg-type]
    assert found["response_p95"] == Value(pytest.approx(10, abs=0.001))  # type: ignore[arg-type]
    assert found["errors"] == Value(pytest.approx(0.02))  # type: ignore[arg-type]
    assert found["response_mean"] is not None
    assert found["response_mean"].is_bound


def test_cpu_is_of_what_serves_and_memory_is_at_its_peak(tmp_path: Path) -> None:
    found = measured(tmp_path, runs.constant(10))
    assert found["cpu"] is not None
    assert found["cpu"].number == pytest.approx(1.0, rel=0.01)  # lb, backend, postgres, redis of what was made up
    assert found["memory"] is not None
    # four processes, less 5 MB each that others share; the last look at them was before the last attempt
    assert found["memory"].number == pytest.approx((60 + 4 * 20 - 4 * 5 + 4 * 1.2) * 1e6 / (1 << 20), rel=0.01)


def test_the_counters_of_who_was_born_late_count_whole(tmp_path: Path) -> None:
    frame = left(tmp_path, runs.constant(10)).frame("resources")
    late = frame[(frame["role"] != "lb") | (frame["t_ns"] > 0.7e9)]
    before, after = measures.used(frame).cpu_s, measures.used(late).cpu_s
    assert after["lb"] > before["lb"] + 4  # five seconds were on its clock when it was first looked at
    assert after["redis"] == before["redis"]


def test_a_first_look_that_took_long_was_the_first_all_the_same(tmp_path: Path) -> None:
    frame = left(tmp_path, runs.constant(10)).frame("resources")
    slow = frame.assign(t_ns=frame["t_ns"] * 10 + frame.groupby("t_ns").cumcount() * 3e8)
    assert measures.used(slow) == measures.used(frame)


def test_a_last_look_that_could_not_tell_is_no_zero(tmp_path: Path) -> None:
    frame = left(tmp_path, runs.constant(10)).frame("resources")
    blind = frame.assign(run_delay_s=frame["run_delay_s"].where(frame["t_ns"] < frame["t_ns"].max()))
    assert measures.used(blind).delay_s["lb"] == pytest.approx(measures.used(frame).delay_s["lb"], rel=0.2)


def test_an_error_that_came_late_is_no_verdict(tmp_path: Path) -> None:
    one = left(tmp_path, runs.constant(10), rate=1000.0)
    requests = one.frame("requests")
    is_last = requests["seq"] == requests["seq"].max()
    requests["outcome"] = requests["outcome"].mask(is_last, "ERROR")
    requests["decided_ns"] = requests["decided_ns"].mask(is_last, 60e9)
    found = measures.values(one.trial, requests, {}, 0.0)["throughput"]
    assert found is not None
    assert found.number == pytest.approx(1000, rel=0.02)


def test_throughput_is_of_decisions_until_the_last_one(tmp_path: Path) -> None:
    found = measured(tmp_path, runs.constant(10), rate=1000.0)
    assert found["throughput"] is not None
    assert found["throughput"].number == pytest.approx(1000, rel=0.02)


def test_a_sale_that_did_not_sell_out_has_no_such_time(tmp_path: Path) -> None:
    assert measured(tmp_path / "a", runs.constant(10), stock=5000)["sellout"] is None
    found = measured(tmp_path / "b", runs.constant(10), stock=600)["sellout"]
    assert found is not None
    assert found.number == pytest.approx(1.0, abs=0.1)


def test_in_flight_counts_who_waits(tmp_path: Path) -> None:
    requests = left(tmp_path, runs.constant(100), rate=1000.0).frame("requests")
    _, count = measures.in_flight(requests)
    assert count.max() == pytest.approx(100, rel=0.3)
    assert count[-1] == 0


def test_a_file_that_was_changed_since_is_not_reported(tmp_path: Path) -> None:
    folder = left(tmp_path, runs.constant(10)).folder
    (folder / "stock.csv.gz").write_bytes(b"")
    with pytest.raises(UnreadableError, match=r"stock\.csv\.gz differ"):
        read(tmp_path)


def test_what_is_no_run_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match=r"is no comparison's run.*run\.json"):
        read(tmp_path)


def test_a_wait_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    """Made up so that a queue has accepted after three tenths of the time."""
    made = runs.MadeUp("peak", {"B": runs.noisy(40)}, blocks=1, noise_blocks=0)
    requests = read(runs.write(tmp_path, [made])).trials[0].frame("requests")
    rows = measures.parts(requests)
    assert rows.sum(axis=1) == pytest.approx(measures.waits(requests).times)
    lag, accepting, deciding = rows.mean(axis=0)
    assert 0 < lag < 0.2
    assert (lag + accepting) / (lag + accepting + deciding) == pytest.approx(0.3, abs=0.001)


def test_a_closed_loop_leaves_out_who_came_while_it_waited(tmp_path: Path) -> None:
    """
    A second of silence in two: a tenth of all waited for more than 800 ms, and a user who waits for its answer would have told of one. Of as many users as
    attempts nobody is left out.
    """
    requests = left(tmp_path, runs.stalled(5, at_s=0.5, for_s=1.0)).frame("requests")
    everybody = measures.waits(requests)
    closed = measures.closed_loop(requests, 1)
    assert np.mean(everybody.times > 800) == pytest.approx(0.1, abs=0.02)
    assert np.sum(closed.times > 100) == 1
    assert closed.count < everybody.count / 2
    assert measures.closed_loop(requests, len(requests)).times == pytest.approx(
        measures.waits(requests, begin="sent_ns").times
    )
    lost = left(tmp_path / "lost", runs.dropping(5, every=10)).frame("requests")
    assert measures.closed_loop(lost, 3).never == 3  # and then there is nobody left to ask


def test_a_ramp_is_cut_by_when_people_came(tmp_path: Path) -> None:
    requests = left(tmp_path, runs.stalled(5, at_s=0.5, for_s=1.0)).frame("requests")
    rates, accepted, decided = measures.by_rate(requests, 4)
    assert rates == pytest.approx([600] * 4, rel=0.2)
    assert [float(np.median(waits)) for waits in decided] == pytest.approx([5, 755, 255, 5], abs=40)
    assert [len(waits) for waits in accepted] == [len(waits) for waits in decided]
    assert sum(map(len, decided)) == len(requests)
