"""Tokens are believed by the library's rules, whoever looks at them: the quick look may only say yes where the library does."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest

from flashsale import identity
from flashsale.contract import wire

SECRET = "a secret of these tests alone, 32 or more".replace(" ", "-")
READ = identity.identify_by("jwt", SECRET)
NOW = int(time.time())  # when this file is collected, and the test run may be long in coming to it
DAY = 24 * 3600
CLAIMS: dict[str, Any] = {
    "iss": identity.ISSUER,
    "aud": identity.AUDIENCE,
    "sub": "ana",
    "role": "buyer",
    "iat": NOW,
    "exp": NOW + 2 * DAY,
}


def read(token: str) -> identity.Identity | None:
    """Who it is; None: refused."""
    try:
        return READ({"Authorization": f"Bearer {token}"})
    except wire.Refusal:
        return None


def sign(claims: object, head: object = None, secret: str = SECRET) -> str:
    """A token with a good signature over anything."""
    parts = [head or {"alg": "HS256", "typ": "JWT"}, claims]
    signed = b".".join(_packed(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    return (signed + b"." + _packed(hmac.digest(secret.encode(), signed, hashlib.sha256))).decode()


def _packed(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


GOOD = identity.mint(SECRET, "ana", "buyer", 2 * DAY)
CHANGED: dict[str, dict[str, Any]] = {
    "no iss": {"iss": None},
    "other iss": {"iss": "x"},
    "list of iss": {"iss": ["flashsale"]},
    "other aud": {"aud": "x"},
    "no aud": {"aud": None},
    "no sub": {"sub": None},
    "sub no text": {"sub": 7},
    "sub no buyer": {"sub": "a b"},
    "no exp": {"exp": None},
    "expired": {"exp": NOW - 1},
    "exp true": {"exp": True},
    "exp text": {"exp": "never"},
    "no role": {"role": None},
    "other role": {"role": "root"},
    "role list": {"role": ["buyer"]},
    "from the future": {"iat": NOW + DAY},
    "iat text": {"iat": "x"},
    "not yet": {"nbf": NOW + DAY},
}


def changed(changes: dict[str, Any]) -> str:
    return sign({name: value for name, value in (CLAIMS | changes).items() if value is not None})


BAD = {name: changed(changes) for name, changes in CHANGED.items()} | {
    "other secret": sign(CLAIMS, secret="x" * 40),
    "other algorithm": sign(CLAIMS, {"alg": "HS512", "typ": "JWT"}),
    "no algorithm": sign(CLAIMS, {"alg": "none", "typ": "JWT"}),
    "critical": sign(CLAIMS, {"alg": "HS256", "typ": "JWT", "crit": ["x"], "x": 1}),
    "no signature": GOOD.rpartition(".")[0] + ".",
    "signature's last bits": GOOD[:-1] + chr(ord(GOOD[-1]) + 1),
    "four parts": GOOD + ".x",
    "claims a list": sign([CLAIMS]),
    "claims no JSON": ".".join((GOOD.split(".")[0], "e30x", GOOD.split(".")[2])),
    "nothing": "..",
}


def test_a_minted_token_needs_no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwt, "decode", _never)
    assert read(GOOD) == ("ana", "buyer")
    assert read(identity.mint(SECRET, "ops", "admin", 60)) == ("ops", "admin")


@pytest.mark.parametrize("name", BAD)
def test_what_the_library_refuses_is_refused_by_the_quick_look_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(BAD[name]) is None
    monkeypatch.setattr(jwt, "decode", _refuse)
    assert read(BAD[name]) is None


@pytest.mark.parametrize(
    "token",
    [
        changed({"jti": "x"}),
        changed({"iat": None}),
        changed({"aud": ["flashsale", "other"]}),
        sign(CLAIMS, {"typ": "JWT", "alg": "HS256"}),
        sign(CLAIMS, {"alg": "HS256"}),
        GOOD + " ",
    ],
)
def test_what_is_good_and_not_as_we_mint_it_is_the_library_s_to_judge(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(token) == ("ana", "buyer")
    monkeypatch.setattr(jwt, "decode", _refuse)
    assert read(token) is None


def test_a_token_that_was_believed_is_known_until_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = identity.identify_by("jwt", SECRET)
    headers = {"Authorization": f"Bearer {GOOD}"}
    assert reader(headers) == ("ana", "buyer")
    with monkeypatch.context() as patched:
        patched.setattr(hmac, "digest", _never)
        assert reader(headers) == ("ana", "buyer")
    monkeypatch.setattr(time, "time", lambda: NOW + 3 * DAY)
    monkeypatch.setattr(jwt, "decode", _refuse)
    with pytest.raises(wire.Refusal):
        reader(headers)


def test_no_more_tokens_are_known_than_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "TOKENS_KNOWN_MAX", 2)
    reader = identity.identify_by("jwt", SECRET)
    assert isinstance(reader, identity._BearerTokens)
    for buyer in ("ana", "ben", "cyd", "ana"):
        assert reader.read(f"Bearer {identity.mint(SECRET, buyer, 'buyer', 60)}").buyer == buyer
        assert len(reader._known) <= 2


def _never(*_: object, **__: object) -> None:
    raise AssertionError("the library was asked")


def _refuse(*_: object, **__: object) -> None:
    raise jwt.InvalidTokenError
