"""Keeps the gate of every live sale equal to PostgreSQL: applies the ledger, settles what was abandoned, replaces what is wrong.

Three kinds of round, each of which several processes may run at once: ``apply`` (20-80 ms), ``settle_abandoned`` and
``probe`` (a second). What to do is decided in ``plan``; here it is only done.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import structlog

from flashsale import crash
from flashsale.authority.client import STATEMENT_MS, Authority, Movements
from flashsale.authority.queries import LiveSale
from flashsale.gate.client import Applied, Gate, GateDamaged, GateUnavailable, GateView, Step
from flashsale.stream import wakeup
from flashsale.upkeep import plan
from flashsale.upkeep.metrics import Metrics

MOVING_PAUSE_SECONDS = 0.02  # while rows arrive: a returned unit is on sale again before a buyer has reloaded the page
IDLE_PAUSE_SECONDS = (
    0.08  # with the round's own time under 100 ms: the copy's stamp may miss four heartbeats before 500 ms
)
ROWS_PER_ROUND_MAX = 4096  # over all SKUs: 200,000 rows/s at the moving pace, and a few MB of reply at most
ROWS_PER_SKU_MIN = 16  # with very many SKUs each still moves
SALES_PAUSE_SECONDS = 0.5  # how long a new sale may wait to be noticed
# PostgreSQL ends a statement after STATEMENT_MS; one more second for it to travel. Fencing earlier would be as safe, but
# would turn slow yeses into "try later".
ABANDONED_MS = STATEMENT_MS + 1000
ABANDONED_PER_ROUND_MAX = 512  # of one sale and round: bounds one statement and one script
PROBED_PENDING_MAX = 4096  # a busier sale is probed when it is quieter
SLOW_PAUSE_SECONDS = 1.0  # of settle_abandoned and probe
READY_SECONDS_MAX = 1.0  # a last good round older than this is no proof of readiness any more

log = structlog.get_logger()


class _Good(NamedTuple):
    # When every gate was last found in order, and on which life of Redis: one restarted since has proved nothing yet, even
    # if it was away for less than a round.
    run_id: str
    at: float


class GateKeeper:
    """All gates of one Redis."""

    def __init__(self, gate: Gate, authority: Authority, metrics: Metrics) -> None:
        self._gate = gate
        self._authority = authority
        self._metrics = metrics
        self._sales: dict[str, LiveSale] = {}
        self._sales_due = 0.0
        self._patience = plan.Patience()
        self._drift_watch = plan.DriftWatch()
        self._damaged: dict[str, int] = {}  # sale -> epoch of a gate on which a script failed
        self._good = _Good("", float("-inf"))
        self._applied = crash.point("upkeep.applied")

    @property
    def ready(self) -> bool:
        """Did PostgreSQL and Redis just answer, with the gate of every live sale in order?"""
        return self._good.run_id == self._gate.run_id != "" and time.monotonic() - self._good.at < READY_SECONDS_MAX

    async def apply(self) -> float:
        """Bring every gate up to date, or replace it; returns the seconds until the next round.

        Raises ``GateUnavailable`` or ``AuthorityUnavailable``.
        """
        run_id = self._gate.run_id
        in_order, moved = await self._apply()
        if in_order:
            self._good = _Good(run_id, time.monotonic())
            self._metrics.last_good_round.set_to_current_time()
        return MOVING_PAUSE_SECONDS if moved or not in_order else IDLE_PAUSE_SECONDS

    async def _apply(self) -> tuple[bool, bool]:
        # Is every gate in order; did anything move?
        await self._refresh_sales()
        views = await self._look(0)
        cursors = {sku: item.cursor for view in views.values() for sku, item in view.items.items() if item.cursor >= 0}
        rows_max = max(ROWS_PER_ROUND_MAX // max(len(cursors), 1), ROWS_PER_SKU_MIN)
        movements = await self._authority.movements(cursors, rows_max) if cursors else {}
        causes = {sale: self._diagnose(sale, view, _epoch(view, movements)) for sale, view in views.items()}
        steps = [
            (sale, view, plan.step(sku, item.cursor, view.epoch, movements[sku]))
            for sale, view in views.items()
            if causes[sale] is None
            for sku, item in view.items.items()
            if sku in movements
        ]
        done = await asyncio.gather(*(self._step(sale, view, step) for sale, view, step in steps))
        for (_, _, step), result in zip(steps, done, strict=True):
            self._metrics.lag_rows.labels(step.item.sku).set(step.item.seq - step.cursor)
            if result is Applied.APPLIED:
                self._metrics.applied_rows.inc(len(step.rows))
        moved = {
            step.item.sku
            for (_, _, step), result in zip(steps, done, strict=True)
            if step.rows and result is Applied.APPLIED  # of several keepers one tells
        }
        if moved:
            self._applied()
        # The sound gates first: one that cannot be repaired must not let the others grow old, nor keep them from repair.
        failed: GateDamaged | None = None
        for sale, cause in causes.items():
            try:
                await self._repair(sale, cause, (views[sale].epoch, _epoch(views[sale], movements)))
            except GateDamaged as error:
                failed = error
        if moved:
            # It wakes and proves nothing, and hubs look by themselves: a Redis that does not let us publish ends no round.
            with contextlib.suppress(GateUnavailable, GateDamaged):
                await self._gate.publish(wakeup.CHANNEL, wakeup.encode(moved))
        if failed is not None:
            raise failed
        in_order = not any(causes.values()) and None not in done
        return in_order, any(step.rows for _, _, step in steps)

    async def settle_abandoned(self) -> float:
        """Fence, then settle, every debit that nobody will settle any more; returns the seconds until the next round.

        Raises ``GateUnavailable`` or ``AuthorityUnavailable``.
        """
        more = False
        for sale in tuple(self._sales):
            view = await self._gate.look(sale, (), ABANDONED_PER_ROUND_MAX, ABANDONED_MS)
            if view.damage:
                self._note_damage(sale, view.epoch, view.damage)
            if not view.pending:
                continue
            # The fence first: units given back before it could be sold twice by a decision still on its way, and the copy
            # would refuse the buyer that PostgreSQL has just accepted.
            verdicts = await self._authority.void_attempts(
                [(attempt.rid, attempt.purchase) for attempt in view.pending]
            )
            try:
                settled = await self._gate.settle(sale, plan.settlements(verdicts))
            except GateDamaged as error:
                self._note_damage(sale, view.epoch, str(error))
                continue
            voided = sum(verdict == "void" for verdict in verdicts.values())
            self._metrics.voided.inc(voided)
            self._metrics.settled.inc(settled)
            log.warning("gate.abandoned_settled", sale=sale, found=len(view.pending), voided=voided, settled=settled)
            more = more or len(view.pending) == ABANDONED_PER_ROUND_MAX
        return 0.0 if more else SLOW_PAUSE_SECONDS

    async def probe(self) -> float:
        """Compare units where they can be compared, and replace a gate that stays wrong; returns seconds to the next round.

        Raises ``GateUnavailable`` or ``AuthorityUnavailable``.
        """
        looked = await self._look(PROBED_PENDING_MAX)
        views = {sale: view for sale, view in looked.items() if view.same_run and not view.damage}
        rids = [attempt.rid for view in views.values() for attempt in view.pending]
        held, stock = await self._authority.held_attempts(rids, [sku for view in views.values() for sku in view.items])
        for sale, view in views.items():
            self._metrics.pending.labels(sale).set(view.pending_count)
            found = plan.drifts(view, held, stock)
            for sku, drift in found.items():
                self._metrics.drift_units.labels(sku).set(drift.units)
            if self._drift_watch.confirmed(found):
                await self._rebuild(sale, plan.Cause.DRIFT)
        return SLOW_PAUSE_SECONDS

    async def _refresh_sales(self) -> None:
        if time.monotonic() < self._sales_due:
            return
        live = {sale.sale: sale for sale in await self._authority.live_sales()}
        for name, gone in self._sales.items():
            if name not in live:
                await self._gate.drop(name, gone.skus)
                self._patience.end(name)
                self._drift_watch.forget(gone.skus)
                self._damaged.pop(name, None)
                self._metrics.forget(name, gone.skus)
                log.info("gate.dropped", sale=name)
        self._sales = live
        self._sales_due = time.monotonic() + SALES_PAUSE_SECONDS

    async def _look(self, pending_max: int) -> dict[str, GateView]:
        sales: Sequence[LiveSale] = tuple(self._sales.values())
        views = await asyncio.gather(*(self._gate.look(sale.sale, sale.skus, pending_max) for sale in sales))
        found = {sale.sale: view for sale, view in zip(sales, views, strict=True)}
        for sale, view in found.items():
            if view.damage:
                self._note_damage(sale, view.epoch, view.damage)
        return found

    async def _step(self, sale: str, view: GateView, step: Step) -> Applied | None:
        # None: the gate is damaged. That is no reason to end the round of all the others.
        try:
            return await self._gate.apply(sale, view.epoch, view.now_ms, step)
        except GateDamaged as error:
            self._note_damage(sale, view.epoch, str(error))
            return None

    def _note_damage(self, sale: str, epoch: int, damage: str) -> None:
        # Any round may meet damage; apply repairs it. The epoch says whether somebody has replaced that gate since.
        if self._damaged.get(sale) != epoch:
            log.warning("gate.damaged", sale=sale, epoch=epoch, damage=damage)
        self._damaged[sale] = epoch

    def _diagnose(self, sale: str, view: GateView, epoch: int | None) -> plan.Cause | None:
        cause = plan.diagnose(view, epoch)
        if cause is None and self._damaged.get(sale) == view.epoch:
            return plan.Cause.DAMAGED
        return cause

    async def _repair(self, sale: str, cause: plan.Cause | None, epochs: tuple[int, int | None]) -> None:
        if cause not in plan.PATIENT:
            self._patience.end(sale)
        elif not self._patience.is_over(sale, epochs, time.monotonic()):
            return
        if cause is not None:
            await self._rebuild(sale, cause)

    async def _rebuild(self, sale: str, cause: plan.Cause) -> None:
        began = time.monotonic()
        self._damaged.pop(sale, None)
        self._patience.end(sale)
        view = await self._gate.look(sale, ())
        # One image per raised epoch, sent once: see Gate.init.
        image = plan.image(await self._authority.raise_epoch(sale, view.epoch), view.now_ms)
        won = await self._gate.init(sale, image)
        seconds = time.monotonic() - began
        self._metrics.rebuilds.labels(cause).inc()
        self._metrics.rebuild_seconds.set(seconds)
        log.warning("gate.rebuilt", sale=sale, cause=cause, epoch=image.epoch, won=won, seconds=round(seconds, 4))


def _epoch(view: GateView, movements: Mapping[str, Movements]) -> int | None:
    # PostgreSQL's epoch of the sale, as its items carry it.
    return next((movements[sku].epoch for sku in view.items if sku in movements), None)
