"""What processes tell Prometheus, after purchases whose numbers are known: every series of asyncio_redis, and that it all adds up."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from flashsale.queued import topology
from tests.contract.drivers import HttpDriver
from tests.contract.script import Wish
from tests.patience import PATIENCE_SECONDS
from tests.queued_shop import Shopper, shop_on
from tests.servers import Process
from tests.stages import Stage, staged

BUYERS = 5
COUNTERS = {"attempts", "gate_answers", "refused_at_once", "stream_frames", "stream_conflated", "stream_evicted"}
GAUGES = {"in_flight", "in_flight_limit", "gate_up", "authority_up", "stream_viewers", "stream_age_seconds"}
LIFE = {"process_cpu_seconds", "process_resident_memory_bytes", "process_start_time_seconds", "flash_process_info"}
HISTOGRAMS = {"attempt_seconds", "gate_seconds", "batch_attempts", "commit_seconds", "loop_lag_seconds"}

Samples = Mapping[tuple[str, str], float]  # (name, label value) → value


async def scrape(stage: Stage) -> tuple[dict[str, str], Samples]:
    """The types of all families, and all samples but the buckets."""
    async with stage.session.get(f"http://127.0.0.1:{stage.servers[0].ops_port}/metrics") as answer:
        families = list(text_string_to_metric_families(await answer.text()))
    told = [family for family in families if not family.name.endswith("_created")]  # the library's, beside its counters
    own = [family for family in told if family.name.startswith("flashsale_")]
    assert {family.name for family in told} - {family.name for family in own} == LIFE
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


def standing(samples: Samples) -> tuple[float, ...]:
    """What a slow machine may change for a moment."""
    return tuple(samples[name, ""] for name in ("gate_up", "authority_up", "in_flight"))


async def test_every_series_is_there_and_adds_up(template: str, redis_url: str) -> None:
    async with staged(template, redis_url) as stage, asyncio.timeout(PATIENCE_SECONDS):
        shop = HttpDriver(stage.authority, stage.owner, stage.session, stage.urls)
        await shop.open("s", {"a": BUYERS + 1}, 2)
        await stage.gate_opens(shop.own("s"))
        wishes = [Wish(f"buyer-{number}", "wish", (("a", 1),)) for number in range(BUYERS)]
        heard = [await shop.reserve(wish, is_retry=False) for wish in wishes]
        heard.append(await shop.reserve(Wish("late", "wish", (("a", 2),)), is_retry=False))
        assert heard == ["held"] * BUYERS + ["sold_out"]

        types, samples = await scrape(stage)
        while not samples["loop_lag_seconds_count", ""] or standing(samples) != (1, 1, 0):
            await asyncio.sleep(0.05)
            types, samples = await scrape(stage)
    expected = dict.fromkeys(COUNTERS, "counter") | dict.fromkeys(GAUGES, "gauge")
    assert types == expected | dict.fromkeys(HISTOGRAMS, "histogram")
    assert all(value >= 0 for value in samples.values())
    later = samples["attempts_total", "try_later"]  # promised nothing, and some of them may have been held all the same
    assert BUYERS - later <= samples["attempts_total", "held"] <= BUYERS
    assert total(samples, "attempts_total") == samples["attempt_seconds_count", ""]
    # whoever was not held was asked again by the driver, so there may be more of them than wishes
    assert total(samples, "gate_answers_total") == samples["gate_seconds_count", ""] >= len(heard)
    assert samples["batch_attempts_count", ""] == samples["commit_seconds_count", ""] > 0
    assert samples["batch_attempts_sum", ""] >= BUYERS
    for name in ("gate_seconds_sum", "commit_seconds_sum"):
        assert 0 < samples[name, ""] < PATIENCE_SECONDS, name
    spent = samples["gate_seconds_sum", ""] + samples["commit_seconds_sum", ""]
    assert spent <= samples["attempt_seconds_sum", ""] or later, "a commit may outlast the answer"
    assert samples["in_flight_limit", ""] > 0
    assert standing(samples) == (1, 1, 0)


async def sampled(stage: Stage, process: Process) -> Mapping[str, float]:
    """All series of a process but the buckets, the labels' values behind the name."""
    async with stage.session.get(f"http://127.0.0.1:{process.ops_port}/metrics") as answer:
        families = list(text_string_to_metric_families(await answer.text()))
    return {
        " ".join((sample.name.removeprefix("flashsale_"), *sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
        if "le" not in sample.labels
    }


async def test_a_front_tells_of_the_queue_and_how_soon_the_broker_confirms(template: str, redis_url: str) -> None:
    async with staged(template, redis_url, servers=0, queued_servers=1, workers=0) as stage:
        shop = shop_on(stage)
        await shop.open("s", {f"sku{n}": 9 for n in range(BUYERS)}, 2)
        queued = [await Shopper(shop, f"b{n}", f"sku{n}").buy(stage.urls[0]) for n in range(BUYERS)]
        assert {answer.status for answer in queued} == {202}
        wanted = Counter(f"queue_depth {topology.queue_of(shop.own(f'sku{n}'))}" for n in range(BUYERS))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                told = await sampled(stage, stage.servers[0])
                depths = {name: value for name, value in told.items() if name.startswith("queue_depth ")}
                assert len(depths) == topology.SHARDS
                # whoever was told 503 because the broker was slow was queued all the same, and once more
                published = told["confirms_total confirmed"] + told["confirms_total late"]
                is_there = all(depths[name] >= least for name, least in wanted.items())
                if is_there and sum(depths.values()) == published and not told["unconfirmed"]:
                    break
                await asyncio.sleep(0.1)
    assert told["attempts_total queued"] == told["confirms_total confirmed"] == told["confirm_seconds_count"] == BUYERS
    assert 0 < told["confirm_seconds_sum"] < told["attempt_seconds_sum"]
    assert (told["unconfirmed"], told["in_flight"], told["queue_up"]) == (0, 0, 1)


async def test_a_worker_tells_of_its_batches_and_of_the_oldest_in_hand(template: str, redis_url: str) -> None:
    async with staged(template, redis_url, servers=0, queued_servers=1) as stage:
        shop = shop_on(stage)
        await shop.open("s", {"a": BUYERS}, 2)
        for n in range(BUYERS):
            assert (await Shopper(shop, f"b{n}").settled(stage.urls[0])).status in {200, 201}
        async with asyncio.timeout(PATIENCE_SECONDS):
            # told before it is acknowledged, and counted after
            while (told := await sampled(stage, stage.workers[0]))["checkout_oldest_age_seconds"]:
                await asyncio.sleep(0.1)
    assert told["checkout_decided_total held"] == BUYERS
    # whoever was told 202 or 503 because the machine was slow came again, and is decided once more
    tries = sum(value for name, value in told.items() if name.startswith("checkout_decided_total "))
    assert told["checkout_batch_attempts_sum"] == tries >= BUYERS
    assert 1 <= told["checkout_batch_attempts_count"] <= tries
    assert told["checkout_batch_seconds_sum"] > 0
    assert told["checkout_decided_seconds_count"] == tries
    assert told["checkout_decided_seconds_sum"] > 0
    assert stage.workers[0].child is not None
    assert told[f"flash_process_info {stage.workers[0].child.pid}"] == 1
    assert told["process_cpu_seconds_total"] > 0
    assert told["process_resident_memory_bytes"] > 2**20
    assert abs(time.time() - told["process_start_time_seconds"]) < 10 * PATIENCE_SECONDS
