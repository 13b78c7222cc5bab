"""``python -m flashsale.backends.asyncio_redis``: one server process, configured by the environment (``./flash config``)."""

import os

import uvloop

from flashsale import logs
from flashsale.backends.asyncio_redis.app import serve
from flashsale.settings import Settings

if __name__ == "__main__":
    settings = Settings.load(os.environ)
    logs.configure("asyncio_redis", settings.log_level)
    uvloop.run(serve(settings))
