"""Who is asking: one module for every process. Bearer JWT, or with ``FLASH_AUTH=off`` the word of the client.

The algorithm is pinned here and never read from a token, and a token without subject or expiry is no token (RFC 8725).
"""

import base64
import hmac
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import jwt

from flashsale.contract import wire
from flashsale.contract.verdict import Verdict

ALGORITHM = "HS256"
ISSUER = "flashsale"
AUDIENCE = "flashsale"
ROLES = ("buyer", "admin")
TOKEN_BYTES_MAX = 2048  # far above what mint() makes; bounds the work a stranger can ask for
TOKENS_KNOWN_MAX = 16_384  # some 8 MB; a buyer who is refused comes again and again, with the same token
_REQUIRED = ["iss", "aud", "sub", "exp", "role"]
# The claims as mint() has them written, and nothing else: a text that fits means the same to every reader of JSON.
_claims = re.compile(
    rf'\{{"iss":"{ISSUER}","aud":"{AUDIENCE}","sub":"({wire.BUYER_PATTERN.pattern})","role":"({"|".join(ROLES)})",'
    r'"iat":([1-9][0-9]{0,11}),"exp":([1-9][0-9]{0,11})\}'.encode(),
).fullmatch
_HEAD = jwt.encode({}, "x" * 32, algorithm=ALGORITHM).partition(".")[0]  # the head that the library writes


class Identity(NamedTuple):
    """A buyer (or an admin, who may do what a buyer may)."""

    buyer: str
    role: str


class _Believed(NamedTuple):
    """Whose token it is, and until when."""

    identity: Identity
    until: int


class Identify(ABC):
    """Reads the identity off a request's headers, of which ``field`` alone says it."""

    field: str

    def __call__(self, headers: Mapping[str, str]) -> Identity:
        """Whose request this is. Raises ``wire.Refusal`` (UNAUTHENTICATED)."""
        return self.read(headers.get(self.field))

    @abstractmethod
    def read(self, value: str | None) -> Identity:
        """The same by the value of the field, None where there is none."""


def identify_by(auth: str, secret: str) -> Identify:
    """How this process identifies: by ``jwt`` signed with ``secret``, or ``off``."""
    return _BearerTokens(secret) if auth == "jwt" else _Word()


def mint(secret: str, subject: str, role: str, lifetime_s: int) -> str:
    """A token for ``subject``. Raises ``ValueError`` for a subject or role that no process would accept."""
    if not wire.BUYER_PATTERN.fullmatch(subject):
        raise ValueError(f"a buyer is 1 to 128 of A-Z a-z 0-9 . _ @ : | -, not {subject!r}")
    if role not in ROLES:
        raise ValueError(f"a role is one of {', '.join(ROLES)}, not {role!r}")
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "role": role, "iat": now, "exp": now + lifetime_s}
    return jwt.encode(claims, secret, algorithm=ALGORITHM)


class _BearerTokens(Identify):
    field = "Authorization"

    def __init__(self, secret: str) -> None:
        if not secret:
            raise ValueError("FLASH_JWT_SECRET is empty; `./flash up` makes one, or set at least 32 characters")
        self._secret = secret
        self._key = secret.encode()
        self._known: dict[str, _Believed] = {}  # by what was sent, whole: what differs in one byte is read anew

    def read(self, value: str | None) -> Identity:
        """See above."""
        value = value or ""
        known = self._known.get(value)
        if known is not None and known.until > time.time():
            return known.identity
        scheme, _, token = value.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise wire.Refusal(Verdict.UNAUTHENTICATED, "send Authorization: Bearer <token>; `./flash token` makes one")
        if len(token) > TOKEN_BYTES_MAX:
            raise wire.Refusal(Verdict.UNAUTHENTICATED, f"the token is longer than {TOKEN_BYTES_MAX} bytes")
        if not token.isascii():
            raise wire.Refusal(Verdict.UNAUTHENTICATED, "the token is not valid here")
        if (believed := self._at_once(token)) is not None:
            if len(self._known) >= TOKENS_KNOWN_MAX:
                self._known.clear()
            self._known[value] = believed
            return believed.identity
        try:
            claims = jwt.decode(
                token.strip(),
                self._secret,
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                audience=AUDIENCE,
                options={"require": _REQUIRED},
            )
        except jwt.ExpiredSignatureError as error:
            raise wire.Refusal(Verdict.UNAUTHENTICATED, "the token has expired; ask for a new one") from error
        except jwt.InvalidTokenError as error:
            # the reason would help a forger more than a client
            raise wire.Refusal(Verdict.UNAUTHENTICATED, "the token is not valid here") from error
        return _identity(claims["sub"], claims["role"])

    def _at_once(self, token: str) -> _Believed | None:
        # A token as mint() makes them, whose every byte is as the library wants it. In all doubt None: the library decides,
        # and says what is wrong. It takes 24 us for what takes 5 here.
        signed, _, signature = token.rpartition(".")
        head, _, payload = signed.partition(".")
        digest = hmac.digest(self._key, signed.encode(), "sha256")
        wanted = base64.urlsafe_b64encode(digest).rstrip(b"=")
        if head != _HEAD or not hmac.compare_digest(signature.encode(), wanted):
            return None
        try:
            claims = _claims(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        except ValueError:
            return None
        if claims is None or not int(claims[3]) <= time.time() < int(claims[4]):
            return None
        return _Believed(Identity(claims[1].decode(), claims[2].decode()), int(claims[4]))


class _Word(Identify):
    field = wire.BUYER_HEADER

    def read(self, value: str | None) -> Identity:
        """See above."""
        return _identity(value, "buyer")


def _identity(buyer: object, role: object) -> Identity:
    if not isinstance(buyer, str) or not wire.BUYER_PATTERN.fullmatch(buyer) or role not in ROLES:
        raise wire.Refusal(Verdict.UNAUTHENTICATED, "a buyer is named by 1 to 128 of A-Z a-z 0-9 . _ @ : | -")
    return Identity(buyer, str(role))
