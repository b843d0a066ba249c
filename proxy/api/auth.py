"""Who may ask: one bearer key for all, or nobody is asked for one."""

from __future__ import annotations

import hmac

from proxy.api.errors import Unauthorised


def authorise(authorization: str | None, master_key: str | None) -> None:
    """Check an `Authorization` header against the master key, in time that does not depend on the key.

    Raises:
        Unauthorised: a key is needed and this is not it.
    """
    if master_key is None:
        return
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorised("no API key: send `Authorization: Bearer KEY`")
    # Header values reach Python as Latin-1; a key's bytes are compared as they came over the wire.
    if not hmac.compare_digest(key.strip().encode("latin-1", "replace"), master_key.encode()):
        raise Unauthorised("this API key is not known here")
