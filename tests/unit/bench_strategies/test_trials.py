"""What trials come to: claims held against findings, attacks that did not come about, bounds, and what is told and drawn of it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.strategies import trials
from benchmarks.strategies.catalogue import STRATEGIES, strategy
from benchmarks.strategies.oracle import Found, Kind, Ledger, Told
from benchmarks.strategies.picture import draw, oversells
from benchmarks.strategies.report import whole
from benchmarks.strategies.sql_for_update import ForUpdate
from benchmarks.strategies.sql_read_then_write import ReadThenWrite
from benchmarks.strategies.strategy import Attack, Strategy
from benchmarks.strategies.trial import RACE, RUSH, Trial
from benchmarks.strategies.trials import Attacked, Seen, Stormed, attacked, bounds, contradictions, result
from benchmarks.strategies.watch import Step

FINE: dict[Kind, int] = {}
OVERSOLD, TWICE = {Kind.OVERSOLD: 3}, {Kind.DUPLICATE: 1}


def trial(wrongs: dict[Kind, int], *, arranged: bool = True) -> Trial:
    ledger = Ledger(1, {"i-0": Told.SOLD, "i-1": Told.SOLD}, ["i-0"], ["i-0"])
    steps = [Step(3_000_000, 1, "i-1", "second"), Step(1_000_000, 0, "i-0", "first")]
    return Trial("i", ledger, Found(wrongs, 0), arranged, 2, 0, 0.5, [1.0, 2.0], steps)


def seen(kind: type[Strategy], meet: Sequence[dict[Kind, int]], storm: Sequence[dict[Kind, int]] = ()) -> Seen:
    """``again`` breaks as everybody's does."""
    attacks = {Attack.MEET: Attacked([*map(trial, meet)], 1), Attack.AGAIN: Attacked([trial(TWICE)], 0)}
    storms = [Stormed(4, killed=False, crowd=RACE, trials=[*map(trial, storm or [FINE])])]
    return Seen(kind, attacks, [Stormed(0, killed=False, crowd=RUSH, trials=[trial(FINE)]), *storms])


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (seen(ReadThenWrite, [OVERSOLD, OVERSOLD]), []),
        (seen(ReadThenWrite, [OVERSOLD, FINE]), ["meet: oversold in 1 of 2 trials only"]),  # not caught every time
        (seen(ReadThenWrite, [OVERSOLD], [OVERSOLD, FINE]), []),  # what chance does may be
        (seen(ForUpdate, [FINE]), []),
        (seen(ForUpdate, [OVERSOLD, FINE]), ["oversold in 1 trials, of which nothing is known"]),
        (seen(ForUpdate, [FINE], [OVERSOLD]), ["oversold in 1 trials, of which nothing is known"]),  # by chance, too
        (seen(strategy("asyncio_redis"), [FINE]), ["duplicate in 1 trials, of which nothing is known"]),  # nothing ever
    ],
)
def test_what_is_found_is_held_against_what_is_claimed(found: Seen, wrong: list[str]) -> None:
    assert contradictions(found) == wrong
    assert result(found)["as_claimed"] is (not wrong)


def test_the_worst_that_was_found_is_the_verdict() -> None:
    assert result(seen(ReadThenWrite, [OVERSOLD]))["verdict"] == "oversells"
    assert result(seen(ForUpdate, [FINE]))["verdict"] == "sells twice"
    assert trials.verdict([Kind.LEAKED, Kind.DUPLICATE]) == "undersells"
    assert trials.verdict([]) == "safe"


async def test_an_attack_that_does_not_come_about_is_repeated_with_more_patience_and_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patience: list[float] = []
    outcomes = iter([False, False, True, True])

    async def attack(_: object, of: Strategy, what: Attack, number: int, patience_s: float) -> Trial:  # noqa: ARG001 - as the real one
        patience.append(patience_s)
        return trial(OVERSOLD, arranged=next(outcomes))

    monkeypatch.setattr(trials, "attack", attack)
    naive: Any = ReadThenWrite
    of = await attacked(None, naive, Attack.MEET, 2)  # type: ignore[arg-type] # nobody looks at the field
    assert (len(of.trials), of.void) == (2, 2)
    assert patience == [patience[0], 2 * patience[0], 4 * patience[0], 4 * patience[0]]


async def test_what_nothing_is_known_of_counts_however_it_came_about(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(*_: object) -> Trial:
        return trial(OVERSOLD, arranged=False)

    monkeypatch.setattr(trials, "attack", attack)
    ours: Any = strategy("asyncio_redis")
    of = await attacked(None, ours, Attack.AGAIN, 1)  # type: ignore[arg-type] # nobody looks at the field
    assert (len(of.trials), of.void) == (1, 0)


async def test_who_withstands_an_attack_need_not_let_it_come_about(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(*_: object) -> Trial:
        return trial(FINE, arranged=False)

    monkeypatch.setattr(trials, "attack", attack)
    safe: Any = ForUpdate
    assert await attacked(None, safe, Attack.MEET, 2) == Attacked([trial(FINE, arranged=False)] * 2, 0)  # type: ignore[arg-type] # the same


def test_ours_must_be_killed_where_they_are_to_be_killed() -> None:
    ours: Any = strategy("asyncio_redis")
    assert [what for what in Attack if trials.must_come_about(ours, what)] == [Attack.DIE, Attack.AGAIN]


async def test_an_attack_that_never_comes_about_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attack(*_: object) -> Trial:
        return trial(FINE, arranged=False)

    monkeypatch.setattr(trials, "attack", attack)
    naive: Any = ReadThenWrite
    with pytest.raises(RuntimeError, match="meet does not come about"):
        await attacked(None, naive, Attack.MEET, 1)  # type: ignore[arg-type] # the same


def test_who_was_lucky_in_every_race_has_a_line_all_the_same() -> None:
    assert oversells(result(seen(ReadThenWrite, [OVERSOLD], [FINE])))
    assert oversells(result(seen(ReadThenWrite, [FINE], [OVERSOLD])))
    assert not oversells(result(seen(ForUpdate, [FINE], [TWICE])))


def test_bounds_are_clopper_and_pearsons() -> None:
    assert bounds(20, 20) == pytest.approx((0.8316, 1.0), abs=1e-4)
    assert bounds(0, 20) == pytest.approx((0.0, 0.1684), abs=1e-4)


def test_a_trace_is_in_order_and_the_first_of_its_kind() -> None:
    (oversold, twice) = result(seen(ReadThenWrite, [FINE, OVERSOLD, OVERSOLD]))["traces"]
    assert (oversold["kind"], oversold["attack"], oversold["trial"], oversold["units"]) == ("oversold", "meet", 1, 3)
    assert [(step["ms"], step["attempt"], step["step"]) for step in oversold["steps"]] == [
        (0.0, "0", "first"),
        (2.0, "1", "second"),
    ]
    assert twice["kind"] == "duplicate"


def test_everything_is_told_and_can_be_written_down(tmp_path: Path) -> None:
    naive, safe = result(seen(ReadThenWrite, [OVERSOLD] * 20, [OVERSOLD, FINE])), result(seen(ForUpdate, [FINE] * 20))
    said = json.loads(json.dumps(whole([naive, safe], ["a.png"])))
    assert said["passed"]
    assert all({len(row) for row in table["rows"]} == {len(table["header"])} for table in said["tables"])
    assert said["tables"][0]["rows"][0][:3] == ["SQL: read, then write", "oversells", "oversold 20 of 20"]
    assert said["tables"][2]["rows"][0][1] == "1 of 2 (1%-99%)"
    assert (
        "sql_read_then_write, meet: caught in 20 of 20, so in at least 83% (95%); 1 more did not come about"
        in said["notes"]
    )
    assert "sql_for_update: oversold in 0 of 23 trials, so in less than 13.0% (95%, three over n)" in said["notes"]
    assert any("the trace of one oversell" in note for note in said["notes"])
    assert whole([naive, {**safe, "as_claimed": False}], [])["passed"] is False
    png, svg = draw([naive, safe], tmp_path / "strategies")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in svg.read_text(encoding="utf-8")
    assert draw([{**naive, "storms": []}], tmp_path / "nothing") == []


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_says_what_it_is(name: str) -> None:
    kind = strategy(name)
    assert kind.name() == name
    assert len(kind.text().split()) > 60
    assert not kind.claims.keys() - trials.attacks_on(kind)
    assert kind.is_ours != bool(kind.claims)
