"""``python -m flashsale.payments.gateway``: one simulated gateway process, with an operations port on loopback.

POST /payments/{authorize|capture|void|refund|look}   the state of the key after it, once it is on disk
GET  /journal                                         every change of every key, one JSON line each, for auditors
"""

import asyncio
import os
import signal
import sys
import time

import structlog
import uvloop
from aiohttp import web

from flashsale import logs
from flashsale.payments.gateway.journal import Journal, JournalError
from flashsale.payments.gateway.notices import Notices
from flashsale.payments.gateway.rules import Chance, Entry, Method, Operation, State, decide, later, parse
from flashsale.settings import Settings

ROLE = "gateway"
LOOPBACK = "127.0.0.1"
BODY_BYTES_MAX = 4096
DRAIN_SECONDS = 5.0
HANGS_SHARE = 0.5  # of the answers that are lost; the others end with a reset
HANG_SECONDS = 4.0  # longer than the shop waits

log = structlog.get_logger()


class Bank:
    """The routes of the gateway, and what it does by itself. ``later_s``: how long that takes, on average."""

    def __init__(
        self,
        method: Method,
        journal: Journal,
        chance: Chance,
        notices: Notices | None,
        *,
        latency_s: float,
        later_s: float,
    ) -> None:
        self._method = method
        self._journal = journal
        self._chance = chance
        self._notices = notices
        self._latency_s = latency_s
        self._later_s = later_s
        self._following: set[asyncio.Task[None]] = set()

    def add_to(self, app: web.Application) -> None:
        """Register every route, and take up what a predecessor left to happen by itself."""
        app.router.add_post("/payments/{operation}", self.post)
        app.router.add_get("/journal", self.get_journal)
        app.router.add_get("/livez", livez)
        for entry in self._journal.entries.values():
            self._expect(entry)

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Do what is asked, once per key; 404 for what there is nothing of, 409 for other money under a known key."""
        if self._chance.is_away(time.time()):
            return web.json_response({"detail": "away"}, status=503)
        try:
            operation = Operation(request.match_info["operation"])
            asked = parse(await request.json())
        except (ValueError, RecursionError) as error:
            return web.json_response({"detail": str(error)}, status=400)
        # half to one and a half times the latency, the same for the same call
        await asyncio.sleep(self._latency_s * (0.5 + self._chance.share(asked.key, operation)))
        known = self._journal.entries.get(asked.key)
        try:
            state = decide(self._method, known, operation, asked, self._chance)
        except ValueError as error:
            return web.json_response({"detail": str(error)}, status=409)
        if state is None:
            return web.json_response({"detail": "this key is not known here"}, status=404)
        is_news = known is None or known.state is not state
        if is_news:
            entry = Entry(asked.key, asked.purchase, state, asked.amount_minor, asked.currency, time.time())
            self._journal.append(entry)
            await self._tell(entry)
        await self._journal.synced()  # a repeated call, too, may have overtaken the line it repeats
        # Done, and nobody hears of it: the classic way to charge a card twice.
        if known is None and self._chance.is_silent(asked.key):
            if self._chance.share(asked.key, "hangs") < HANGS_SHARE:
                await asyncio.sleep(HANG_SECONDS)
            if request.transport is not None:
                request.transport.abort()
        if is_news and self._chance.errs(asked.key, state):
            return web.json_response({"detail": "an error, after it was done"}, status=500)
        return web.json_response({"state": state, "amount_minor": asked.amount_minor, "currency": asked.currency})

    async def _tell(self, entry: Entry) -> None:
        await self._journal.synced()
        if self._notices is not None and entry.state is not State.PENDING:  # which is no news
            self._notices.tell(entry)
        self._expect(entry)

    def _expect(self, entry: Entry) -> None:
        after = later(entry, self._chance)
        if after is None:
            return
        delay = self._later_s * (0.5 + self._chance.share(entry.key, after))
        asyncio.get_running_loop().call_later(max(0.0, entry.at + delay - time.time()), self._follow, entry, after)

    def _follow(self, before: Entry, after: State) -> None:
        if self._journal.entries[before.key] == before:  # somebody may have voided or refunded it
            entry = before._replace(state=after, at=time.time())
            self._journal.append(entry)
            task = asyncio.create_task(self._tell(entry))
            self._following.add(task)
            task.add_done_callback(self._followed)

    def _followed(self, task: asyncio.Task[None]) -> None:
        self._following.discard(task)
        if not task.cancelled():
            task.exception()  # a journal that cannot be written ends the process by itself

    async def get_journal(self, _: web.Request) -> web.StreamResponse:
        """The journal, as it is on disk."""
        await self._journal.synced()
        return web.FileResponse(self._journal.path, headers={"Content-Type": "application/x-ndjson"})


async def livez(_: web.Request) -> web.Response:
    """The loop turns."""
    return web.Response(text="alive\n")


async def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT (0), or until the journal cannot be written (1)."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    journal = Journal.open(settings.gateway_journal)
    chance = Chance(
        f"{settings.seed}:{settings.gateway_method}",
        settings.gateway_declines_percent,
        settings.gateway_silent_percent,
        settings.gateway_errors_percent,
        settings.gateway_away_percent,
        settings.gateway_repeats_percent,
        settings.gateway_late_percent,
        settings.gateway_disputes_percent,
    )
    later_s = settings.gateway_later_ms / 1000
    notices = Notices(settings.webhook_url, settings.webhook_secret, chance, later_s) if settings.webhook_url else None
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    method = Method(settings.gateway_method)
    bank = Bank(method, journal, chance, notices, latency_s=settings.gateway_latency_ms / 1000, later_s=later_s)
    bank.add_to(app)
    ops = web.Application()
    ops.router.add_get("/livez", livez)
    ops.router.add_get("/readyz", livez)  # the journal was read before this port opened
    ops.router.add_get("/metrics", lambda _: _metrics(journal, notices))
    runners = [await _listen(app, settings.host, settings.port), await _listen(ops, LOOPBACK, settings.ops_port)]
    log.info(
        "gateway.started", method=method, port=settings.port, ops_port=settings.ops_port, keys=len(journal.entries)
    )

    ends: list[asyncio.Task[object]] = [
        asyncio.create_task(stopping.wait()),
        asyncio.create_task(journal.failed.wait()),
    ]
    if notices is not None:
        ends.append(asyncio.create_task(notices.run()))
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for end in ends:
        end.cancel()
    await asyncio.gather(*ends, return_exceptions=True)
    for runner in runners:
        await runner.cleanup()
    await journal.close()
    log.info("gateway.stopped", journal_failed=journal.failed.is_set())
    return int(not stopping.is_set())


async def _listen(app: web.Application, host: str, port: int) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=DRAIN_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, host, port, reuse_address=True).start()
    return runner


async def _metrics(journal: Journal, notices: Notices | None) -> web.Response:
    dropped = notices.dropped if notices is not None else 0
    return web.Response(
        text=f"# TYPE flash_gateway_keys gauge\nflash_gateway_keys {len(journal.entries)}\n"
        f"# TYPE flash_gateway_notices_dropped counter\nflash_gateway_notices_dropped {dropped}\n"
    )


def main() -> int:
    """Read the settings, then serve."""
    settings = Settings.load(os.environ)
    logs.configure(ROLE, settings.log_level)
    try:
        return uvloop.run(serve(settings))
    except JournalError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
