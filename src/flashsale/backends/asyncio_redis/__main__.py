"""``python -m flashsale.backends.asyncio_redis``: one server process, configured by the environment (``./flash config``)."""

import os

import uvloop

from flashsale import crash, logs
from flashsale.backends.asyncio_redis.app import serve
from flashsale.settings import Settings

if __name__ == "__main__":
    settings = Settings.load(os.environ)
    logs.configure("asyncio_redis", settings.log_level)
    crash.arm(settings.crash_at)
    uvloop.run(serve(settings))
