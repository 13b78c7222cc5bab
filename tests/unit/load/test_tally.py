from benchmarks.load.tally import Fate, Payment, Tally, latencies_ms


def test_percentiles_are_nearest_ranks_in_milliseconds() -> None:
    assert latencies_ms([n / 1000 for n in range(1, 101)]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
    assert latencies_ms([0.25]) == {"p50": 250.0, "p95": 250.0, "p99": 250.0, "max": 250.0}
    assert latencies_ms([]) == {}


def test_an_unanswered_wish_has_a_fate_and_no_latency() -> None:
    tally = Tally(2)
    tally.wish_begins()
    tally.wish_begins()
    tally.wish_ends(Fate.HELD, 0.1)
    tally.wish_ends(Fate.UNANSWERED, 120.0)
    result = tally.result(121.0)
    assert not result["everybody_was_answered"]
    assert (result["attempts"], result["held"], result["unanswered"], result["peak_in_flight"]) == (2, 1, 1, 2)
    assert result["decided_ms"]["max"] == 100.0


def test_accepted_and_decided_are_kept_apart() -> None:
    tally = Tally(2)
    tally.wish_begins()
    tally.wish_is_queued(0.1)
    tally.wish_ends(Fate.SOLD_OUT, 0.5, was_queued=True)
    tally.wish_begins()
    tally.wish_ends(Fate.HELD, 0.2)
    result = tally.result(1.0)
    assert (result["accepted_ms"]["max"], result["decided_ms"]["max"], result["queued"]) == (200.0, 500.0, 1)
    assert result["everybody_was_answered"]


def test_an_open_payment_leaves_somebody_unanswered() -> None:
    tally = Tally(1)
    tally.payment_ends(Payment.PAID, 0.3)
    assert tally.everybody_was_answered
    tally.payment_ends(Payment.UNANSWERED, 60.0)
    result = tally.result(61.0)
    assert (result["paid_ms"]["max"], result["payments"]["unanswered"]) == (300.0, 1)
    assert not result["everybody_was_answered"]
