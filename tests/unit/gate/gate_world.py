"""A very small shop whose every interleaving can be walked: the real gate scripts, client and upkeep decisions on a Redis
of dicts, against a PostgreSQL of tuples.

One SKU, one unit per purchase. A crash is an actor that is never scheduled again, so no step for it is needed; the clock
moves in ticks of 500 ms, which is what makes a stamp old. Three things are checked in every state that can be reached:

* healed: if every actor stopped here, janitor, rebuild and applier would make the gate equal PostgreSQL, nothing pending;
* steady: the drift probe sees no difference, whatever is under way, and the gate's keys are whole. A probe that reads the gate
  and PostgreSQL at two moments is an actor: whatever happens in between, it must not see one either;
* heard: no winner would now be refused by the gate, except while a hold it never debited is younger than the copy's stamp;
  and nobody would be told sold_out unless PostgreSQL had nothing left within this tick.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from flashsale.authority.client import GateImage, GateItem, Movement, Movements
from flashsale.contract.wire import Line
from flashsale.gate.client import SCRIPTS, GateView, Image, Outcome, Settlement, Step
from flashsale.upkeep import plan
from tests.unit.gate.memory_redis import Data, MemoryRedis, at_once, memory_gate

SALE, SKU = "s", "sku"
TICK_MS = 500
OPENS = datetime(1970, 1, 1, tzinfo=UTC)
CLOSES = datetime(2100, 1, 1, tzinfo=UTC)
LIMIT = 9
STRANGER = UUID(int=0xFFFF)
PROBE_RID = UUID(int=0xFFFE)


class Entry(NamedTuple):
    """A ledger row, and the tick it was committed in."""

    delta: int
    kind: str
    epoch: int | None
    purchase: UUID | None
    tick: int


class Postgres(NamedTuple):
    """The authority: each method is one statement and returns the next state."""

    epoch: int = 1
    state: str = "OPEN"
    ledger: tuple[Entry, ...] = ()
    attempts: tuple[tuple[UUID, str], ...] = ()
    returned: frozenset[UUID] = frozenset()

    @property
    def available(self) -> int:
        return sum(entry.delta for entry in self.ledger)

    @property
    def won(self) -> list[UUID]:
        return [entry.purchase for entry in self.ledger if entry.kind == "hold" and entry.purchase]

    def reserve(self, rid: UUID, purchase: UUID, epoch: int | None, tick: int) -> tuple["Postgres", str]:
        known = dict(self.attempts).get(rid)
        if known is not None:
            return self, "fenced" if known == "void" else known
        verdict = "held"
        if purchase in self.won:
            verdict = "replayed"
        elif self.state != "OPEN":
            verdict = "sale_not_open"
        elif self.available < 1:
            verdict = "sold_out"
        ledger = self.ledger
        if verdict == "held":
            ledger += (Entry(-1, "hold", epoch, purchase, tick),)
        return self._replace(ledger=ledger, attempts=tuple(sorted((*self.attempts, (rid, verdict))))), verdict

    def void(self, rid: UUID) -> tuple["Postgres", str]:
        known = dict(self.attempts).get(rid)
        if known is not None:
            return self, known
        return self._replace(attempts=tuple(sorted((*self.attempts, (rid, "void"))))), "void"

    def cancel(self, purchase: UUID, tick: int) -> "Postgres":
        entry = Entry(+1, "return", None, purchase, tick)
        return self._replace(ledger=(*self.ledger, entry), returned=self.returned | {purchase})

    def switch(self, state: str, tick: int) -> "Postgres":
        return self._replace(state=state, ledger=(*self.ledger, Entry(0, state, None, None, tick)))

    def was_closed(self, tick: int) -> bool:
        """Was the sale not open at some moment of this tick?"""
        return self.state != "OPEN" or any(entry.kind == "OPEN" and entry.tick == tick for entry in self.ledger)

    def movements(self, cursor: int, rows_max: int) -> Movements:
        rows = tuple(
            Movement(seq, entry.delta, entry.kind, entry.epoch, entry.purchase)
            for seq, entry in enumerate(self.ledger, 1)
            if cursor < seq <= cursor + rows_max
        )
        return Movements(len(self.ledger), self.epoch, self.available, self.state, OPENS, CLOSES, LIMIT, rows)

    def raise_epoch(self, gate_epoch: int) -> tuple["Postgres", GateImage]:
        after = self._replace(epoch=max(self.epoch, gate_epoch) + 1)
        item = GateItem(SKU, self.available, len(self.ledger), self.state, OPENS, CLOSES, LIMIT)
        return after, GateImage(after.epoch, (item,), self.won)


class Actor(NamedTuple):
    """Who does what next: ``at`` is the name of the next step, ``mind`` whatever was learnt from the ones before."""

    name: str
    at: str
    mind: Any = ()


class World(NamedTuple):
    """Everything. ``store`` is Redis's data, frozen; ``saved`` an older one that a restart may bring back."""

    store: Any
    run: int
    saved: Any
    pg: Postgres
    tick: int
    actors: tuple[Actor, ...]


class Violation(AssertionError):  # noqa: N818 - what it is called
    """A reachable state breaks a promise; the text is the shortest way there."""


@dataclass(frozen=True)
class Laws:
    """What the actors hold to; each can be broken on purpose, to show that the search would notice."""

    scripts: Mapping[str, str] = field(default_factory=lambda: SCRIPTS)
    fence_first: bool = True  # the janitor voids in PostgreSQL before it settles
    stamp_before_read: bool = True  # Redis time is taken before PostgreSQL is read
    keep_only_held: bool = True  # any other verdict gives the units back
    heed_run_id: bool = True  # a gate from another life of Redis is replaced
    probe_gate_first: bool = True  # the drift probe reads PostgreSQL after the gate


def actor_attempt(number: int, purchase: int) -> Actor:
    return Actor(f"attempt{number}", "reserve", (UUID(int=number), UUID(int=purchase)))


def actor_other_backend(number: int, purchase: int) -> Actor:
    return Actor(f"other{number}", "commit", (UUID(int=number), UUID(int=purchase), None))


def actor_applier(name: str, rounds: int, rows_max: int) -> Actor:
    return Actor(name, "look", (rounds, rows_max))


class Search:
    """Walks every state that ``actors`` can reach, breadth first, so that a violation comes with a shortest trace.

    With ``drift`` the gate begins with so many units too many; it then breaks every promise but one: a probe that compares
    (``compared`` counts them) sees exactly that.
    """

    def __init__(self, actors: tuple[Actor, ...], laws: Laws | None = None, *, stock: int = 1, drift: int = 0) -> None:
        self.laws = laws or Laws()
        self.drift = drift
        self.compared = 0
        self.redis = MemoryRedis(self.laws.scripts)
        self.gate = memory_gate(self.redis)
        self._checked: set[Any] = set()
        self._answers: dict[Any, tuple[Any, Any]] = {}
        pg = Postgres(ledger=(Entry(stock, "restock", None, None, 0),))
        empty = World((), 1, None, pg, 0, actors)
        self._enter(empty)
        pg = self._rebuild(pg)
        if drift:
            stored = self.redis.data[f"{{{SALE}}}:stock:{SKU}"]
            stored["available"] = str(int(stored["available"]) + drift)
        self.start = empty._replace(store=_freeze(self.redis.data), pg=pg)

    def run(self, depth: int = 10**9) -> int:
        """Raises ``Violation``; returns how many states were seen, none further than ``depth`` steps from the start."""
        parents: dict[World, tuple[World, str] | None] = {self.start: None}
        level = deque([self.start])
        for _ in range(depth):
            following: deque[World] = deque()
            for world in level:
                for label, after in self._steps(world):
                    if after in parents:
                        continue
                    parents[after] = (world, label)
                    try:
                        self._check(after)
                    except AssertionError as error:
                        raise Violation("\n".join([*_trace(parents, after), str(error)])) from error
                    following.append(after)
            if not following:
                break
            level = following
        return len(parents)

    def wander(self, walks: int, seed: int) -> int:
        """Walk to an end by chance, so many times: deep states instead of all near ones. Raises ``Violation``."""
        chance = random.Random(seed)
        steps = 0
        for walk in range(walks):
            world, labels = self.start, [f"walk {walk} of seed {seed}"]
            while ways := list(self._steps(world)):
                label, world = chance.choice(ways)
                labels.append(label)
                steps += 1
                try:
                    self._check(world)
                except AssertionError as error:
                    raise Violation("\n".join([*labels, str(error)])) from error
        return steps

    # Steps

    def _steps(self, world: World) -> Iterator[tuple[str, World]]:
        for index, actor in enumerate(world.actors):
            step: Callable[[World, int, Actor], Iterator[tuple[str, World]]] = getattr(
                self, f"_do_{actor.at}", _do_nothing
            )
            for label, after in step(world, index, actor):
                yield f"{actor.name}: {label}", after

    def _do_reserve(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        rid, purchase = actor.mind
        answer, store = self._ask(world, "reserve", rid, purchase, f"b{purchase.int}", (Line(SKU, 1),))
        if answer.outcome is Outcome.DEBITED:
            after = actor._replace(at="commit", mind=(rid, purchase, answer.epoch))
        elif answer.outcome in {Outcome.KNOWN, Outcome.ASK, Outcome.STALE}:
            after = actor._replace(at="commit", mind=(rid, purchase, None))
        else:
            after = actor._replace(at="done", mind=())
        yield f"reserve -> {answer.outcome}", _with(world, index, after)._replace(store=store)

    def _do_commit(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        rid, purchase, epoch = actor.mind
        pg, verdict = world.pg.reserve(rid, purchase, epoch, world.tick)
        keep = verdict == "held" or not self.laws.keep_only_held
        after = actor._replace(at="settle" if epoch else "done", mind=(rid, keep) if epoch else ())
        yield f"commit -> {verdict}", _with(world, index, after, pg=pg)

    def _do_settle(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        settled, store = self._ask(world, "settle", (Settlement(*actor.mind),))
        after = _with(world, index, actor._replace(at="done", mind=()))
        yield f"settle keep={actor.mind[1]} -> {settled}", after._replace(store=store)

    def _do_cancel(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        (purchase,) = actor.mind
        if purchase in world.pg.won and purchase not in world.pg.returned:
            yield "cancel", _with(world, index, actor._replace(at="done"), pg=world.pg.cancel(purchase, world.tick))

    def _do_pause(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        yield "pause", _with(world, index, actor._replace(at="resume"), pg=world.pg.switch("PAUSED", world.tick))

    def _do_resume(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        yield "resume", _with(world, index, actor._replace(at="done"), pg=world.pg.switch("OPEN", world.tick))

    def _do_tick(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        (left,) = actor.mind
        after = actor._replace(at="tick" if left > 1 else "done", mind=(left - 1,))
        yield "500 ms pass", _with(world, index, after)._replace(tick=world.tick + 1)

    def _do_look(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        rounds, rows_max = actor.mind
        view = self._look(world)
        if view.epoch and self._same_run(view):
            mind = (rounds, rows_max, view.epoch, view.now_ms, view.items[SKU].cursor)
            yield f"look cursor={mind[-1]}", _with(world, index, actor._replace(at="read", mind=mind))

    def _do_read(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        rounds, rows_max, epoch, stamp, cursor = actor.mind
        step = plan.step(SKU, cursor, epoch, world.pg.movements(cursor, rows_max))
        mind = (rounds, rows_max, epoch, stamp, step)
        yield f"read {len(step.rows)} rows", _with(world, index, actor._replace(at="apply", mind=mind))

    def _do_apply(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        rounds, rows_max, epoch, stamp, step = actor.mind
        if not self.laws.stamp_before_read:
            stamp = _now_ms(world)
        result, store = self._ask(world, "apply", epoch, stamp, step)
        after = actor._replace(at="look" if rounds > 1 else "done", mind=(rounds - 1, rows_max) if rounds > 1 else ())
        yield f"apply -> {result}", _with(world, index, after)._replace(store=store)

    def _do_fence(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        for attempt in self._look(world, 9).pending:
            pg, verdict = world.pg.void(attempt.rid) if self.laws.fence_first else (world.pg, "void")
            (settlement,) = plan.settlements({attempt.rid: verdict})
            after = actor._replace(at="settle", mind=tuple(settlement))
            yield f"fence {attempt.rid.int} -> {verdict}", _with(world, index, after, pg=pg)

    def _do_suspect(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        view = self._look(world)
        after = actor._replace(at="raise", mind=(*actor.mind, view.epoch, view.now_ms))
        yield "suspects the gate", _with(world, index, after)

    def _do_raise(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        sends, epoch, stamp = actor.mind
        pg, image = world.pg.raise_epoch(epoch)
        sent = plan.image(image, stamp)
        after = actor._replace(at="init", mind=(sends, sent._replace(won=tuple(sent.won))))
        yield f"raise -> {image.epoch}", _with(world, index, after, pg=pg)

    def _do_init(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        sends, image = actor.mind
        done, store = self._ask(world, "init", image)
        after = actor._replace(at="init" if sends > 1 else "done", mind=(sends - 1, image) if sends > 1 else ())
        yield f"init {image.epoch} -> {done}", _with(world, index, after)._replace(store=store)

    def _do_save(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        yield "saves its file", _with(world, index, actor._replace(at="restart"))._replace(saved=world.store)

    def _do_restart(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        after = _with(world, index, actor._replace(at="done"))
        yield "restarts from the file", after._replace(store=world.saved, saved=None, run=world.run + 1)

    def _do_flush(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        yield "is emptied", _with(world, index, actor._replace(at="done"))._replace(store=())

    def _do_probe(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        if self.laws.probe_gate_first:
            view = self._look(world, 9)
            mind: Any = (*view[:4], tuple(view.items.items()), *view[5:])
        else:
            mind = world.pg
        yield "probes", _with(world, index, actor._replace(at="compare", mind=mind))

    def _do_compare(self, world: World, index: int, actor: Actor) -> Iterator[tuple[str, World]]:
        if self.laws.probe_gate_first:
            view, pg = GateView(*actor.mind)._replace(items=dict(actor.mind[4])), world.pg
        else:
            view, pg = self._look(world, 9), actor.mind
        found = _drifts(view, pg) if view.same_run else {}
        if SKU not in found:
            yield "compares nothing", _with(world, index, actor._replace(at="done", mind=()))
            return
        self.compared += 1
        units = found[SKU].units
        after = actor._replace(at="done" if units == self.drift else "misled", mind=units)
        yield f"compares: {units}", _with(world, index, after)

    # Checks

    def _check(self, world: World) -> None:
        misled = [actor.mind for actor in world.actors if actor.at == "misled"]
        assert not misled, f"a probe sees a drift of {misled} units, not {self.drift}"
        if self.drift:
            return
        key = (world.store, world.run, world.pg, world.tick)
        if key not in self._checked:
            self._checked.add(key)
            self._check_heard(world)
            self._check_steady(world)
            self._check_healed(world)

    def _check_heard(self, world: World) -> None:
        view = self._look(world)
        for purchase in (*world.pg.won, STRANGER):
            answer, _ = self._ask(world, "reserve", PROBE_RID, purchase, "probe", (Line(SKU, 1),))
            outcome = answer.outcome
            if purchase == STRANGER:
                if outcome is Outcome.SOLD_OUT:
                    assert _short_within_tick(world), "the gate said sold_out while PostgreSQL had units all along"
                if outcome is Outcome.SALE_NOT_OPEN:
                    assert world.pg.was_closed(world.tick), "the gate said sale_not_open of a sale open all along"
                continue
            hold = next(entry for entry in world.pg.ledger if entry.kind == "hold" and entry.purchase == purchase)
            refused = outcome in {Outcome.SOLD_OUT, Outcome.SALE_NOT_OPEN, Outcome.IN_FLIGHT}
            within_bound = hold.epoch != view.epoch and hold.tick == world.tick
            assert not refused or within_bound, f"the winner {purchase.int} hears {outcome}"

    def _check_steady(self, world: World) -> None:
        view = self._look(world, 9)
        assert not view.damage, view.damage
        found = _drifts(view, world.pg)
        if view.same_run:
            assert not any(drift.units for drift in found.values()), f"a drift where nothing went wrong: {found}"

    def _check_healed(self, world: World) -> None:
        self._enter(world)
        pg = world.pg
        for attempt in at_once(self.gate.look(SALE, (), 9)).pending:
            pg, verdict = pg.void(attempt.rid) if self.laws.fence_first else (pg, "void")
            at_once(self.gate.settle(SALE, plan.settlements({attempt.rid: verdict})))
        view = at_once(self.gate.look(SALE, [SKU]))
        cause = plan.diagnose(view._replace(same_run=self._same_run(view)), pg.epoch)
        if cause is not None:
            pg = self._rebuild(pg)
            view = at_once(self.gate.look(SALE, [SKU]))
        cursor = view.items[SKU].cursor
        result = at_once(
            self.gate.apply(
                SALE, view.epoch, view.now_ms, plan.step(SKU, cursor, view.epoch, pg.movements(cursor, 99))
            ),
        )
        stock = self.redis.data[f"{{{SALE}}}:stock:{SKU}"]
        assert result == "applied", f"the applier is stuck: {result}"
        assert int(stock["available"]) == pg.available, (
            f"gate {stock['available']}, PostgreSQL {pg.available} available"
        )
        assert stock["pending"] == "0", "units pending for ever"
        left = [name for name in self.redis.data if ":pending" in name]
        assert not left, f"left behind: {left}"
        won = self.redis.data.get(f"{{{SALE}}}:won", set())
        assert won == {purchase.hex for purchase in pg.won}, "won differs"

    # The edge between frozen worlds and the living Redis

    def _ask(self, world: World, call: str, *arguments: Any) -> tuple[Any, Any]:
        """What the gate answers, and what Redis then holds. That is all that a call depends on, and many worlds ask the same."""
        key = (world.store, world.run, world.tick, call, arguments)
        if key not in self._answers:
            self._enter(world)
            answer = at_once(getattr(self.gate, call)(SALE, *arguments))
            self._answers[key] = answer, _freeze(self.redis.data)
        return self._answers[key]

    def _look(self, world: World, pending_max: int = 0) -> GateView:
        view: GateView
        view, _ = self._ask(world, "look", (SKU,), pending_max)
        return view

    def _same_run(self, view: GateView) -> bool:
        return view.same_run or not self.laws.heed_run_id

    def _rebuild(self, pg: Postgres) -> Postgres:
        view = at_once(self.gate.look(SALE, ()))
        pg, image = pg.raise_epoch(view.epoch)
        sent: Image = plan.image(image, view.now_ms)
        assert at_once(self.gate.init(SALE, sent)), "a fresh epoch was refused"
        return pg

    def _enter(self, world: World) -> None:
        self.redis.data = _thaw(world.store)
        self.redis.run_id = f"run-{world.run}"
        self.redis.now_ms = _now_ms(world)
        self.gate._epochs.clear()  # a server that has heard nothing yet: no epoch protects it but the gate's own


def _do_nothing(_: World, __: int, ___: Actor) -> Iterator[tuple[str, World]]:
    return iter(())


def _drifts(view: GateView, pg: Postgres) -> dict[str, plan.Drift]:
    held = [rid for rid, verdict in pg.attempts if verdict == "held"]
    return plan.drifts(view, held, {SKU: (pg.available, len(pg.ledger))})


def _now_ms(world: World) -> int:
    return 10_000 + world.tick * TICK_MS


def _with(world: World, index: int, actor: Actor, pg: Postgres | None = None) -> World:
    actors = (*world.actors[:index], actor, *world.actors[index + 1 :])
    return world._replace(actors=actors, pg=pg or world.pg)


def _short_within_tick(world: World) -> bool:
    available, short = 0, False
    for entry in world.pg.ledger:
        if entry.tick == world.tick:
            # A return of this tick may not have reached the copy yet: that is the bound the design states.
            short = short or available < 1 or entry.delta > 0
        available += entry.delta
    return short or available < 1


def _freeze(data: Data) -> Any:
    return tuple(
        sorted(
            (key, frozenset(value) if isinstance(value, set) else frozenset(value.items()))
            for key, value in data.items()
        ),
    )


def _thaw(store: Any) -> Data:
    return {key: set(value) if key.endswith(":won") else dict(value) for key, value in store}


def _trace(parents: Mapping[World, tuple[World, str] | None], world: World) -> list[str]:
    labels: list[str] = []
    while (step := parents[world]) is not None:
        world, label = step
        labels.append(label)
    return labels[::-1]


__all__ = ["Actor", "Laws", "Search", "Step", "Violation", "actor_applier", "actor_attempt", "actor_other_backend"]
