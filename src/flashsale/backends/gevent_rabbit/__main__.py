"""``python -m flashsale.backends.gevent_rabbit``: one gunicorn master and one worker on one port, configured by the environment."""

# Before any other import: a lock or a socket made earlier stays the system's and would stop every greenlet of the worker.
from gevent import monkey

monkey.patch_all()

import os  # noqa: E402

from flashsale import crash, logs  # noqa: E402
from flashsale.backends.gevent_rabbit.app import serve  # noqa: E402
from flashsale.settings import Settings  # noqa: E402

if __name__ == "__main__":
    settings = Settings.load(os.environ)
    logs.configure("gevent_rabbit", settings.log_level)
    crash.arm(settings.crash_at)  # before the fork: every worker that the master makes is armed
    serve(settings)
