"""What can go wrong with scoring, for callers in the process and across the wire."""

from __future__ import annotations


class ScoringError(Exception):
    """The root of all scoring errors."""


class BadScoreRequest(ScoringError):
    """This request can never be scored as it is; `param` names the field, `code` is stable."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class UnsupportedModel(ScoringError):
    """A model whose scores would be wrong here, so it is refused."""


class ScorerUnavailable(ScoringError):
    """The service does not answer, or failed on its own account."""


class BadScoreReply(ScorerUnavailable):
    """The service answers what no scorer can have found: not asked again, as it would say the
    same."""
