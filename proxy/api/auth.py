"""Who may ask for what: bearer keys with scopes, expiry and limits. Only hashes of keys are kept.

Without any key, everybody may ask for everything.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from starlette.requests import Request

from proxy.api.errors import Forbidden, Unauthorised
from proxy.api.limits import UNLIMITED, RequestLimits

Scope = Literal["chat", "feedback", "metrics", "traces", "admin"]
"""What a key opens; "admin" opens everything."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, by the key's name."""

    name: str = ""
    limits: RequestLimits = UNLIMITED


ANYBODY = Caller()


@dataclass(frozen=True, slots=True)
class Key:
    """A key: `sha256` is the hash of its bytes, in hexadecimal."""

    name: str
    sha256: str
    scopes: frozenset[Scope]
    expires: datetime | None = None
    limits: RequestLimits = UNLIMITED


def sha256_of(key: bytes) -> str:
    """A key's hash, as configured."""
    return hashlib.sha256(key).hexdigest()


def master_key(key: str) -> Key:
    """A key that opens everything, without limits of its own."""
    return Key("master", sha256_of(key.encode()), frozenset({"admin"}))


@dataclass(frozen=True, slots=True)
class Keyring:
    """All keys there are."""

    keys: tuple[Key, ...] = ()
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    def admit(self, authorization: str | None, scope: Scope) -> Caller:
        """Check an `Authorization` header, in time that does not depend on the keys.

        Raises:
            Unauthorised: a key is needed and this is none, or has expired.
            Forbidden: the key does not open this.
        """
        if not self.keys:
            return ANYBODY
        scheme, _, sent = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not sent.strip():
            raise Unauthorised("no API key: send `Authorization: Bearer KEY`")
        # Header values reach Python as Latin-1; a key's bytes are compared as they came over the wire.
        hashed = sha256_of(sent.strip().encode("latin-1", "replace"))
        matching = [key for key in self.keys if hmac.compare_digest(key.sha256, hashed)]
        if not matching:
            raise Unauthorised("this API key is not known here")
        key = matching[0]
        if key.expires is not None and key.expires <= self.now():
            raise Unauthorised("this API key has expired")
        if not key.scopes & {scope, "admin"}:
            raise Forbidden(f"this API key does not have the scope {scope!r}")
        return Caller(key.name, key.limits)


def caller_of(request: Request) -> Caller:
    """Who asks, as it was found out when the request came in."""
    found = request.scope.get("cord.caller", ANYBODY)
    return found if isinstance(found, Caller) else ANYBODY
