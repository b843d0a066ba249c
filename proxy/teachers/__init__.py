"""Teachers: adapters that turn an `TeacherRequest` into a call on some backend, and its reply into a `Continuation`."""
