"""``python -m flashsale.admin``: the admin page, until it is told to stop; with words, what ``flash admin`` does to its users."""

import argparse
import os
import sys

import uvloop

from flashsale import logs
from flashsale.admin import users
from flashsale.admin.app import ROLE, serve
from flashsale.settings import Settings


def main(words: list[str]) -> int:
    """Read the settings, then serve, or change who may sign in; the exit status."""
    settings = Settings.load(os.environ)
    if not words:
        logs.configure(ROLE, settings.log_level)
        uvloop.run(serve(settings))
        return 0
    parser = argparse.ArgumentParser(prog="flashsale.admin", description="who may sign in to the admin page")
    users.options(parser)
    try:
        users.run(parser.parse_args(words), settings.admin_users)
    except users.UsersError as error:
        print(f"admin: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
