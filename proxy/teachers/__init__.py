"""Teachers: adapters that turn an `Ask` into a call on some backend, and its reply into a `Continuation`."""
