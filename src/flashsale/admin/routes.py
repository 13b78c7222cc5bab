"""HTTP in, ``flashsale.operate`` called, JSON out. Every refusal leaves as a problem (RFC 9457), whoever raised it."""

import asyncio
import contextlib
import json
import math
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

import structlog
from aiohttp import web

from flashsale.admin import passwords
from flashsale.admin.actions import ACTIONS, MESSAGE, QUEUE, Action
from flashsale.admin.figures import Figures
from flashsale.admin.guard import CSRF_HEADER, HEADERS, READS, Door, is_token
from flashsale.admin.metrics import Metrics
from flashsale.admin.operations.stream import Stream
from flashsale.admin.pages import FILES, PAGE
from flashsale.admin.sessions import IDLE_SECONDS, Session, Sessions, Throttle
from flashsale.admin.turns import FullError, Turns
from flashsale.admin.users import PASSWORD_CHARS_MAX, Role, User, Users, UsersError
from flashsale.operate import dlq, fields, merchant, operations, purchase, sale
from flashsale.operate.context import AwayError, Context, Deed, NothingError, OperationError
from flashsale.operate.fields import NAME, Field, FieldError, Form, Kind, matching, whole

BODY_BYTES_MAX = 16 * 1024
BODY_SECONDS = 5.0
QUERY_CHARS_MAX = 2048
REASON_CHARS_MAX = 500  # as the record has it
KEY_HEADER = "Idempotency-Key"
RETRY_AFTER_SECONDS = 1
WORKING_MAX, WAITING_MAX = 6, 32  # connections to the stores at once, and requests that wait for one
LOOKS_WAITING_MAX = 8  # for a dead-letter queue, which is one's at a time
HASHING_MAX = 2  # 64 MiB each
OPERATIONS_MAX, OPERATIONS_PAGE = 200, 50
MESSAGES_MAX = 200  # of a dead-letter queue, the latest
OF_A_SUBJECT = 20  # operations shown beside what they were done to
PROBLEM = "application/problem+json"
FIGURES_PAGE = "operations.html"
USER = web.RequestKey("user", User)

# What a refusal of those who do the work is called here; the first that fits.
_STATUSES: Mapping[type[Exception], int] = {
    FieldError: 400, NothingError: 404, AwayError: 503, OperationError: 409, FullError: 503,
}  # fmt: skip

log = structlog.get_logger()
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _reason(text: str) -> str:
    if not 1 <= len(text.strip()) <= REASON_CHARS_MAX or not text.replace("\n", " ").isprintable():
        raise ValueError
    return text.strip()


def _any(text: str) -> str:
    if not 1 <= len(text) <= PASSWORD_CHARS_MAX:
        raise ValueError
    return text


REASON = Field("reason", Kind(f"1 to {REASON_CHARS_MAX} printable characters: why", _reason))
KEY = matching(re.compile(r"[A-Za-z0-9_-]{16,64}", re.ASCII), "16 to 64 of A-Z a-z 0-9 _ -")
SIGN_IN = tuple(Field(name, Kind(f"1 to {PASSWORD_CHARS_MAX} characters", _any)) for name in ("name", "password"))
SUBJECT = Field("subject", Kind("1 to 200 printable characters", fields.TEXT.parse), required=False)
LOOK_BACK = (
    SUBJECT,
    Field("before", whole(1, 2**62), required=False),
    Field("last", whole(1, OPERATIONS_MAX), required=False, default=OPERATIONS_PAGE),
)


class ProblemError(Exception):
    """A request that is refused: the status, and why, for the person who asked."""

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


class Routes:
    """The routes of the process: who is signed in, and the bound of what is worked on at once."""

    def __init__(
        self,
        door: Door,
        users: Users,
        context: Context,
        figures: Figures,
        stream: Stream,
        *,
        looking: asyncio.Lock,
        metrics: Metrics,
    ) -> None:
        self._door = door
        self._users = users
        self._context = context
        self._figures = figures
        self._stream = stream
        self._metrics = metrics
        self._sessions = Sessions()
        self._throttle = Throttle()
        self._hashing = asyncio.Semaphore(HASHING_MAX)
        self._turns = Turns(WORKING_MAX, WAITING_MAX)
        self._looks = Turns(1, LOOKS_WAITING_MAX)
        self._looking = looking
        metrics.sessions.set_function(lambda: len(self._sessions))

    def add_to(self, app: web.Application) -> None:
        """Register every route, and what stands before all of them."""
        app.middlewares.extend((self._dressed, self._answered, self._guarded))
        for path, handler in (
            ("/", self.get_page),
            ("/operations", self.get_operations_page),
            ("/static/{file}", self.get_static),
            ("/api/session", self.get_session),
            ("/api/actions", self.get_actions),
            ("/api/overview", self.get_overview),
            ("/api/sales/{sale}", self.get_sale),
            ("/api/purchases", self.get_purchases),
            ("/api/purchases/{id}", self.get_purchase),
            ("/api/dlq/{queue}", self.get_messages),
            ("/api/dlq/{queue}/message", self.get_message),
            ("/api/operations", self.get_operations),
        ):
            app.router.add_get(path, handler)
        app.router.add_get(
            "/api/operations/stream", self.get_stream, allow_head=False
        )  # its head alone would take a place
        app.router.add_post("/api/session", self.sign_in)
        app.router.add_post("/api/session/end", self.sign_out)
        app.router.add_post("/api/plans/{action}", self.plan)
        app.router.add_post("/api/deeds/{action}", self.do)

    # --- before and behind every route

    @web.middleware
    async def _dressed(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if not response.prepared:  # a stream has its own by then
            response.headers.update(HEADERS)
        return response

    @web.middleware
    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ProblemError as error:
            return _problem(error.status, error.detail, error.headers)
        except web.HTTPRequestEntityTooLarge:
            return _closed(_problem(413, f"a body is at most {BODY_BYTES_MAX} bytes"))
        except web.HTTPException as error:
            allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
            return _problem(error.status, error.reason, allow)
        except tuple(_STATUSES) as error:
            status = next(status for kind, status in _STATUSES.items() if isinstance(error, kind))
            return _problem(status, str(error), {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else None)
        except UsersError as error:
            log.error("admin.users_unreadable", reason=str(error))  # noqa: TRY400 - its words are all there is to say
            return _problem(503, "nobody can sign in now; the log says why")
        except Exception:
            log.exception("request.failed", path=request.path)
            return _problem(500, "Internal Server Error")

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if len(request.headers.getall("Host", [])) != 1 or not self._door.is_ours(request.headers.get("Host")):
            raise ProblemError(421, "this page is reached by another name")
        if len(request.raw_path) > QUERY_CHARS_MAX:
            raise ProblemError(414, f"an address is at most {QUERY_CHARS_MAX} characters")
        is_read, origin = request.method in READS, request.headers.get("Origin")
        # A browser says where a read comes from if it comes from another page.
        if not (is_read and origin is None) and not self._door.is_from_us(origin):
            raise ProblemError(403, "this did not come from the admin page")
        route = getattr(request.match_info.handler, "__func__", request.match_info.handler)
        if route in _PUBLIC:
            return await handler(request)
        user, session = self._signed_in(request, is_there=route is not Routes.get_stream)
        if not is_read and not is_token(request.headers.get(CSRF_HEADER), session.csrf):
            raise ProblemError(403, f"the {CSRF_HEADER} is not this session's; reload the page")
        request[USER] = user
        return await handler(request)

    def _signed_in(self, request: web.Request, *, is_there: bool = True) -> tuple[User, Session]:
        # A stream that broke is opened again by the page alone: nobody has to be there.
        token, look = request.cookies.get(self._door.cookie), self._sessions.find if is_there else self._sessions.last
        session = None if token is None else look(token, time.monotonic())
        if token is None or session is None:
            raise ProblemError(401, "sign in first")
        user = self._known(session)
        if user is None:
            self._sessions.end(token)
            raise ProblemError(401, "sign in again")
        return user, session

    def _known(self, session: Session) -> User | None:
        user = self._users.find(session.name)
        return user if user is not None and user.password == session.password else None

    def _is_signed_in(self, token: str) -> bool:
        # by a look at the session that does not prolong it
        session = self._sessions.last(token, time.monotonic())
        try:
            return session is not None and self._known(session) is not None
        except UsersError:
            return False

    # --- the page

    async def get_page(self, _: web.Request) -> web.Response:
        """``GET /``."""
        return web.Response(body=FILES[PAGE].body, headers=FILES[PAGE].headers)

    async def get_operations_page(self, _: web.Request) -> web.Response:
        """``GET /operations``."""
        return web.Response(body=FILES[FIGURES_PAGE].body, headers=FILES[FIGURES_PAGE].headers)

    async def get_static(self, request: web.Request) -> web.Response:
        """``GET /static/{file}``."""
        file = FILES.get(request.match_info["file"])
        if file is None:
            raise web.HTTPNotFound
        return web.Response(body=file.body, headers=file.headers)

    # --- who is signed in

    async def get_session(self, request: web.Request) -> web.Response:
        """``GET /api/session``: who is signed in, and the token that a change must carry; 204 when nobody is."""
        try:
            return _json(_session(*self._signed_in(request)))
        except ProblemError:
            return web.Response(status=204)

    async def sign_in(self, request: web.Request) -> web.Response:
        """``POST /api/session``."""
        asked = fields.read(SIGN_IN, await _document(request))
        name = asked["name"]
        wait = self._throttle.begin(name, time.monotonic())
        if wait > 0:
            self._metrics.sign_ins.labels("throttled").inc()
            raise ProblemError(
                429, f"too many tries; wait {math.ceil(wait)} s", **{"Retry-After": str(math.ceil(wait))}
            )
        user = self._users.find(name)
        async with self._hashing:
            kept = None if user is None else user.password
            is_right = await asyncio.to_thread(passwords.matches, kept, asked["password"])
        if user is None or not is_right:
            self._metrics.sign_ins.labels("refused").inc()
            raise ProblemError(401, "this name and password do not belong together")
        self._throttle.passed(name)
        self._metrics.sign_ins.labels("accepted").inc()
        log.info("admin.signed_in", name=name)
        # Whoever was signed in here is not any more: a session is never taken over.
        if old := request.cookies.get(self._door.cookie):
            self._sessions.end(old)
        token, session = self._sessions.begin(name, user.password, time.monotonic())
        response = _json(_session(user, session))
        response.set_cookie(
            self._door.cookie, token, path="/", httponly=True, samesite="Strict", secure=self._door.is_tls
        )
        return response

    async def sign_out(self, request: web.Request) -> web.Response:
        """``POST /api/session/end``."""
        self._sessions.end(request.cookies[self._door.cookie])
        response = web.Response(status=204)
        response.del_cookie(self._door.cookie, path="/", httponly=True, samesite="Strict", secure=self._door.is_tls)
        return response

    # --- looking

    async def get_actions(self, _: web.Request) -> web.Response:
        """``GET /api/actions``: what can be done, and what each is told, as forms are made of it."""
        return _json({name: _described(action) for name, action in ACTIONS.items()})

    async def get_overview(self, _: web.Request) -> web.Response:
        """``GET /api/overview``: the last audit, every sale, what was set aside; each of its own moment."""
        return _json(await self._figures.overview())

    async def get_sale(self, request: web.Request) -> web.Response:
        """``GET /api/sales/{sale}``."""
        name = _name(request, "sale")
        async with self._turns.turn():
            found = await sale.read(name, self._context)
            report = await merchant.report(name, self._context, ("skus", "funnel", "revenue"))
            deeds = await operations.latest(self._context, OF_A_SUBJECT, subject=name)
        return _json(
            {"sale": found, **{table: rows for table, rows in report.items() if table != "sale"}, "operations": deeds}
        )

    async def get_purchases(self, request: web.Request) -> web.Response:
        """``GET /api/purchases``: a page of a search."""
        asked = _query(request, purchase.SEARCH)
        async with self._turns.turn():
            return _json(await purchase.find(asked, self._context))

    async def get_purchase(self, request: web.Request) -> web.Response:
        """``GET /api/purchases/{id}``."""
        asked = fields.read((purchase.SUBJECT,), {"purchase": request.match_info["id"]})
        async with self._turns.turn():
            return _json(await purchase.read(asked["purchase"], self._context))

    async def get_messages(self, request: web.Request) -> web.Response:
        """``GET /api/dlq/{queue}``: the latest that were set aside, and how many there are."""
        queue = fields.read((QUEUE,), {"queue": request.match_info["queue"]})["queue"]
        async with self._at("dlq"):
            rows = await dlq.listed(queue, self._context)
        return _json({"messages": rows[-MESSAGES_MAX:], "all": len(rows)})

    async def get_message(self, request: web.Request) -> web.Response:
        """``GET /api/dlq/{queue}/message?message=…``."""
        queue = fields.read((QUEUE,), {"queue": request.match_info["queue"]})["queue"]
        message = _query(request, (MESSAGE,))["message"]
        async with self._at("dlq"):
            return _json(await dlq.read(queue, message, self._context))

    async def get_operations(self, request: web.Request) -> web.Response:
        """``GET /api/operations``: a page of what was done by hand, the latest first."""
        asked = _query(request, LOOK_BACK)
        async with self._turns.turn():
            rows = await operations.latest(
                self._context, asked["last"] + 1, subject=asked["subject"], before=asked["before"]
            )
        shown = rows[: asked["last"]]
        return _json({"operations": shown, "before": shown[-1]["id"] if len(rows) > len(shown) else None})

    async def get_stream(self, request: web.Request) -> web.StreamResponse:
        """``GET /api/operations/stream``: what the operations page shows, again and again."""
        token = request.cookies[self._door.cookie]
        return await self._stream.serve(request, lambda: self._is_signed_in(token))

    # --- changing

    async def plan(self, request: web.Request) -> web.Response:
        """``POST /api/plans/{action}``: what the deed would change. A POST, because it takes the deed's locks for a moment."""
        name, action, document = await self._asked(request)
        asked = fields.read(action.fields, document)
        by = Deed(request[USER].name, "a rehearsal", secrets.token_hex(16))
        async with self._at(name):
            changes = await action.plan(asked, by, self._context)
        return _json({"action": name, "means": action.means, "changes": [change._asdict() for change in changes]})

    async def do(self, request: web.Request) -> web.Response:
        """``POST /api/deeds/{action}``: does it once per ``Idempotency-Key``, and tells what is on record."""
        name, action, document = await self._asked(request)
        key = _key(request)
        asked = fields.read((*action.fields, REASON), document)
        by = Deed(request[USER].name, asked.pop("reason"), key)
        async with self._at(name):
            try:
                await action.do(asked, by, self._context)
            except OperationError as error:
                self._metrics.deeds.labels(name, type(error).__name__).inc()
                raise
            recorded = await operations.latest(self._context, 1, key=key)
        self._figures.changed()
        self._metrics.deeds.labels(name, "done").inc()
        log.info("admin.deed", action=name, name=by.operator, key=key)
        return _json({"action": name, "key": key, "operation": recorded[0] if recorded else None})

    @contextlib.asynccontextmanager
    async def _at(self, name: str) -> AsyncIterator[None]:
        # A look at a dead-letter queue has all of it in hand: whoever looked meanwhile would find nothing there. So those who
        # look wait for each other, and in a line of their own: a broker that is slow keeps nobody from a sale.
        if not name.startswith("dlq"):
            async with self._turns.turn():
                yield
            return
        async with self._looks.turn(), self._looking:
            yield

    async def _asked(self, request: web.Request) -> tuple[str, Action, dict[str, Any]]:
        if request[USER].role is not Role.OPERATOR:
            raise ProblemError(403, "you may look, and change nothing")
        name = request.match_info["action"]
        if name not in ACTIONS:
            raise ProblemError(404, f"there is no action {name[:64]}")
        return name, ACTIONS[name], await _document(request)


# Everything else asks for a session, what is forgotten here included.
_PUBLIC = frozenset(
    {Routes.get_page, Routes.get_operations_page, Routes.get_static, Routes.get_session, Routes.sign_in}
)


def _session(user: User, session: Session) -> dict[str, Any]:
    return {"name": user.name, "role": user.role, "csrf": session.csrf, "idle_s": IDLE_SECONDS}


def _described(action: Action) -> dict[str, Any]:
    return {
        "means": action.means,
        "fields": [
            {"name": f.name, "form": f.kind.form, "allowed": f.kind.allowed, "help": f.help, "required": f.required,
             "default": f.default}
            for f in action.fields
        ],
    }  # fmt: skip


async def _document(request: web.Request) -> dict[str, Any]:
    if request.content_type != "application/json" or "Content-Encoding" in request.headers:
        raise _closing(ProblemError(415, "send Content-Type: application/json, as it is"))
    try:
        async with asyncio.timeout(BODY_SECONDS):
            document = json.loads(await request.read(), parse_constant=_no_constant)
    except TimeoutError:
        raise ProblemError(408, f"the body did not arrive within {BODY_SECONDS:g} seconds") from None
    except (ValueError, RecursionError):
        raise ProblemError(400, "the body is not JSON in UTF-8") from None
    if not isinstance(document, dict):
        raise ProblemError(400, "the body is not a JSON object")
    return document


def _no_constant(text: str) -> None:
    raise ValueError(text)


def _query(request: web.Request, known: tuple[Field, ...]) -> dict[str, Any]:
    # Every value of a query is a text: a number is read from it as the command line reads one.
    given: dict[str, Any] = {}
    numbers = {field.name for field in known if field.kind.form is Form.NUMBER}
    for name, text in request.query.items():
        if name in given:
            raise FieldError(f"{name[:64]!r} stands twice")
        if name in numbers and text.isascii() and text.isdecimal() and len(text) <= 20:
            given[name] = int(text)
        elif text:
            given[name] = text
    return fields.read(known, given)


def _name(request: web.Request, place: str) -> str:
    name: str = fields.read((Field(place, NAME),), {place: request.match_info[place]})[place]
    return name


def _key(request: web.Request) -> str:
    given = request.headers.getall(KEY_HEADER, [])
    if len(given) != 1:
        raise FieldError(f"{KEY_HEADER} is missing or stands twice: {KEY.allowed}")
    try:
        key: str = KEY.parse(given[0])
    except ValueError:
        raise FieldError(f"{KEY_HEADER} is not {KEY.allowed}") from None
    return key


def _closing(error: ProblemError) -> ProblemError:
    # Answered before the body was read: what is left of it must not be taken for the next request.
    error.headers["Connection"] = "close"
    return error


def _closed(response: web.Response) -> web.Response:
    response.force_close()
    return response


def _problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
    title = web.Response(status=status).reason
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})
    return web.Response(status=status, text=body, content_type=PROBLEM, headers=headers)


def _json(document: Any) -> web.Response:
    return web.Response(text=json.dumps(document, default=_plain), content_type="application/json")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return str(value)
