"""The page's files leave both backends alike: typed, tagged, under the policy; and nothing else on the disk can be had."""

import asyncio
import re
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from flashsale.web import FILES, PAGE, PAGE_PATH, STATIC_PATH
from tests.patience import PATIENCE_SECONDS
from tests.stages import Stage, staged

pytestmark = pytest.mark.asyncio(loop_scope="module")
BACKENDS = ("asyncio_redis", "gevent_rabbit")
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(template: str, redis_url: str) -> AsyncIterator[Stage]:
    """One server of each backend."""
    async with staged(template, redis_url, servers=1, queued_servers=1) as staged_:
        yield staged_


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, stage: Stage) -> str:
    """A server of the backend."""
    return stage.urls_of(request.param)[0]


async def test_every_file_has_its_type_its_tag_and_the_policy(stage: Stage, url: str) -> None:
    for path, name in [(PAGE_PATH, PAGE), *((f"{STATIC_PATH}/{name}", name) for name in FILES)]:
        async with stage.session.get(url + path) as answer:
            assert (answer.status, await answer.read()) == (200, FILES[name].body), path
            assert answer.content_type == TYPES[name.rpartition(".")[2]]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-cache"
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            tag = answer.headers["ETag"]
        for given in (tag, f'"other", W/{tag}', "*"):
            async with stage.session.get(url + path, headers={"If-None-Match": given}) as answer:
                assert (answer.status, await answer.read(), answer.headers["ETag"]) == (304, b"", tag)
                assert "Content-Length" not in answer.headers
        async with stage.session.get(url + path, headers={"If-None-Match": '"other"'}) as answer:
            assert answer.status == 200
        async with stage.session.head(url + path) as answer:
            assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(FILES[name].body)))


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/__init__.py",
        "/static/nothing.js",
        "/static/../identity.py",
        "/static/..%2fidentity.py",
        "/static/%2e%2e/%2e%2e/settings.py",
        "/static//etc/passwd",
        "/static/page.js/",
        "/static/page.js%00",
        "/index.html",
    ],
)
async def test_nothing_else_can_be_had(url: str, path: str) -> None:
    # raw, because clients put such paths in order before they send them
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert re.match(rb"HTTP/1.1 40[04] ", answer), answer
    assert b"import " not in answer


async def test_the_page_is_read_and_not_written(stage: Stage, url: str) -> None:
    for path in (PAGE_PATH, f"{STATIC_PATH}/{PAGE}"):
        async with stage.session.post(url + path, timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS)) as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")
