"""Every part of the balancer's benchmark, small, with whoever is there: what was said adds up, and nothing is said of how fast."""

import os
from pathlib import Path

import pytest

from benchmarks.backend import load
from benchmarks.backend.report import Section
from benchmarks.lb import balancers, idle, plain, relay, tls, wants
from benchmarks.lb.balancers import OURS, Contestant
from benchmarks.lb.field import Field
from benchmarks.lb.peers import aiohttp_proxy
from flashsale.settings import REPOSITORY

pytestmark = pytest.mark.slow

PEER = Contestant("aiohttp", lambda given: aiohttp_proxy(given, is_tuned=True))  # needs nothing to be installed


@pytest.fixture
def field(tmp_path: Path) -> Field:
    return Field(
        environment={"PATH": os.environ["PATH"], "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"},
        processes={},
        core=max(os.sched_getaffinity(0)),
        folder=tmp_path,
        home=tmp_path,
        pictures=tmp_path / "lb",
        say=print,
    )


def is_told(section: Section) -> bool:
    return bool(section.rows) and {len(row) for row in section.rows} == {len(section.header)}


async def test_a_request_goes_through_everybody(field: Field) -> None:
    contestants, left_out = balancers.find(field)
    everybody = [*contestants, *plain.by_path(contestants), PEER]
    effort = plain.Effort(1, 1, 0, (wants.POST, wants.GET))
    seen = await plain.against(field, effort, everybody)
    names = [plain.DIRECT, *(one.name for one in everybody)]
    assert [tuple(cell) for cell in seen] == [(method, name) for method in effort.methods for name in names]
    for (one,) in seen.values():
        assert one.answers > 0 == one.refusals + one.broken
        assert one.cpu_us[load.SERVER] > 0
    said = plain.section(seen, effort, left_out)
    assert is_told(said)
    assert len(left_out) == 3 - len(contestants)
    assert plain.by_path(contestants) or left_out


async def test_tls_is_weighed_apart_and_left_out_aloud_without_wrk(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    if load.has_wrk():
        said = await tls.measure(field, tls.QUICK)
        assert is_told(said)
        assert [row[1] for row in said.rows][:2] == [OURS.name, "ours, TLS"]
    monkeypatch.setattr(load, "has_wrk", lambda: False)
    assert (await tls.measure(field, tls.QUICK)).notes[-1] == "TLS is left out: there is no wrk."


async def test_without_wrk_and_nginx_client_and_upstream_are_ours(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "has_wrk", lambda: False)
    monkeypatch.setattr(balancers, "SYSTEM_PATH", "")
    bare = field._replace(environment={**field.environment, "PATH": ""})
    contestants, left_out = balancers.find(bare)
    assert (contestants, len(left_out)) == ([OURS], 2)
    seen = await plain.against(bare, plain.Effort(1, 1, 0, (wants.POST,)), contestants)
    assert [one.answers > 0 for loads in seen.values() for one in loads] == [True, True]


async def test_an_answer_that_was_not_asked_for_ends_the_run(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancers, "ANSWERS_SECONDS", 0.0)
    nowhere = balancers.ours("ours", {"LB_SERVERS": "nowhere=127.0.0.1:9"})
    with pytest.raises(RuntimeError, match="ours answers 50"):
        await plain.against(field, plain.Effort(1, 1, 0, (wants.POST,)), [nowhere])


async def test_clients_that_stay_are_counted_and_weighed(field: Field) -> None:
    said = await idle.measure(field, idle.Effort(1, 0.3, 150))
    assert is_told(said)
    assert said.raw["clients"] == 150
    for turns in said.raw["turns"].values():
        assert all(turn[which]["answers"] > 0 for turn in turns for which in ("few", "many"))


async def test_every_event_comes_through(field: Field) -> None:
    said = await relay.measure(field, relay.Effort(1, 1.0, 100))
    assert is_told(said)
    png, svg = map(Path, said.raw["pictures"])
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in svg.read_text(encoding="utf-8")
    assert all(turn["rate"] > 0 < turn["cpu_us"] for turns in said.raw["turns"].values() for turn in turns)


async def test_streams_that_nobody_serves_end_the_run(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "REQUEST", relay.REQUEST.replace(b"/stream", b"/none"))
    monkeypatch.setattr(relay, "WITHIN_SECONDS", 0.5)
    with pytest.raises(RuntimeError, match="streams are silent"):
        await relay.measure(field, relay.Effort(1, 0.5, 5))
