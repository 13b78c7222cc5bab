"""What a server of asyncio_redis tells Prometheus, after purchases whose numbers are known: every series, and that it adds up."""

import asyncio
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from tests.contract.drivers import HttpDriver
from tests.contract.script import Wish
from tests.stages import Stage, staged

BUYERS = 5
WITHIN_SECONDS = 60.0
COUNTERS = {"attempts", "gate_answers", "refused_at_once", "stream_frames", "stream_conflated", "stream_evicted"}
GAUGES = {"in_flight", "in_flight_limit", "gate_up", "authority_up", "stream_viewers", "stream_age_seconds"}
HISTOGRAMS = {"attempt_seconds", "gate_seconds", "batch_attempts", "commit_seconds", "loop_lag_seconds"}

Samples = Mapping[tuple[str, str], float]  # (name, label value) → value


async def scrape(stage: Stage) -> tuple[dict[str, str], Samples]:
    """The types of all families, and all samples but the buckets."""
    async with stage.session.get(f"http://127.0.0.1:{stage.servers[0].ops_port}/metrics") as answer:
        families = list(text_string_to_metric_families(await answer.text()))
    own = [family for family in families if not family.name.endswith("_created")]  # the library's, beside its counters
    assert all(family.name.startswith("flashsale_") for family in own)
    types = {family.name.removeprefix("flashsale_"): family.type for family in own}
    samples = {
        (sample.name.removeprefix("flashsale_"), "".join(sample.labels.values())): sample.value
        for family in own
        for sample in family.samples
        if "le" not in sample.labels
    }
    for family in own:
        if family.type == "histogram":
            buckets = [sample.value for sample in family.samples if "le" in sample.labels]
            assert buckets == sorted(buckets), family.name
            assert buckets[-1] == samples[family.name.removeprefix("flashsale_") + "_count", ""], family.name
    return types, samples


def total(samples: Samples, name: str) -> float:
    return sum(value for (found, _), value in samples.items() if found == name)


async def test_every_series_is_there_and_adds_up(template: str, redis_url: str) -> None:
    async with staged(template, redis_url) as stage, asyncio.timeout(WITHIN_SECONDS):
        shop = HttpDriver(stage.authority, stage.owner, stage.session, stage.urls)
        await shop.open("s", {"a": BUYERS + 1}, 2)
        await stage.gate_opens(shop.own("s"))
        wishes = [Wish(f"buyer-{number}", "wish", (("a", 1),)) for number in range(BUYERS)]
        heard = [await shop.reserve(wish, is_retry=False) for wish in wishes]
        heard.append(await shop.reserve(Wish("late", "wish", (("a", 2),)), is_retry=False))
        assert heard == ["held"] * BUYERS + ["sold_out"]

        types, samples = await scrape(stage)
        while not samples["loop_lag_seconds_count", ""]:
            await asyncio.sleep(0.05)
            types, samples = await scrape(stage)
    expected = dict.fromkeys(COUNTERS, "counter") | dict.fromkeys(GAUGES, "gauge")
    assert types == expected | dict.fromkeys(HISTOGRAMS, "histogram")
    assert all(value >= 0 for value in samples.values())
    assert samples["attempts_total", "held"] == BUYERS
    assert total(samples, "attempts_total") == samples["attempt_seconds_count", ""]
    # whoever was not held was asked again by the driver, so there may be more of them than wishes
    assert total(samples, "gate_answers_total") == samples["gate_seconds_count", ""] >= len(heard)
    assert samples["batch_attempts_count", ""] == samples["commit_seconds_count", ""] > 0
    assert samples["batch_attempts_sum", ""] >= BUYERS
    for name in ("gate_seconds_sum", "commit_seconds_sum"):
        assert 0 < samples[name, ""] < WITHIN_SECONDS, name
    assert samples["gate_seconds_sum", ""] + samples["commit_seconds_sum", ""] <= samples["attempt_seconds_sum", ""]
    assert samples["in_flight_limit", ""] > 0
    assert (samples["gate_up", ""], samples["authority_up", ""], samples["in_flight", ""]) == (1, 1, 0)
