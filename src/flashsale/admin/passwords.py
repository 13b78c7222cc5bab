"""Passwords as they are kept: argon2id with the library's own costs (RFC 9106's for little memory: 64 MiB, three passes)."""

import functools
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_HASHER = PasswordHasher()


def hashed(password: str) -> str:
    """The password as it is kept."""
    return _HASHER.hash(password)


def matches(kept: str | None, password: str) -> bool:
    """Is it the password that is kept so? Takes as long for somebody whom nobody knows (None)."""
    try:
        return _HASHER.verify(_nobodys() if kept is None else kept, password) and kept is not None
    except (VerificationError, InvalidHashError):
        return False


@functools.cache
def _nobodys() -> str:
    return _HASHER.hash(secrets.token_hex(32))
