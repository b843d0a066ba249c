"""What is asked of the scorer and what it says: plain frozen values, the wire format of the
service.

Callers send text; token ids, caches and batches are the scorer's own business.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation that is being answered."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Tree:
    """Candidate next steps under one prefix.

    `prefix` is the reasoning so far, every step ending in a blank line, or empty. Each candidate is
    judged on top of it, none of them sees another. `answers` are reference answers, for the
    objectives that read them. `proposed`, if any, holds each candidate's log-probability in nats
    under the model that wrote it; `weights`, if any, each answer's share in a consensus.
    """

    messages: tuple[Message, ...]
    prefix: str
    candidates: tuple[str, ...]
    answers: tuple[str, ...] = ()
    proposed: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Score a tree by an objective under one model, or several where the objective is a panel's.

    Requests of one `request_id` are one search: searches share the device fairly, whatever each
    asks. With `ahead` the request is worked on when nothing else waits: to read a step while it is
    still being written.
    """

    tree: Tree
    objective: str
    models: tuple[str, ...]
    request_id: str = ""
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class ModelScore:
    """One model's share: the sum of log-probabilities in nats, over `tokens` tokens or `bytes`
    bytes of text."""

    model: str
    nats: float
    tokens: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CandidateScore:
    """A candidate's score in nats, and the length to normalise by: the caller ranks by nats /
    length**alpha.

    `written` is what each model answered, where the objective has it answer.
    """

    nats: float
    length: float
    per_model: tuple[ModelScore, ...]
    written: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoreReply:
    """The candidates' scores in the order asked, and what they cost.

    `queue_s` was spent waiting for the device, `compute_s` on it, with `batch_size` requests in
    progress at the same time; `tokens_forwarded` counts what ran through a model because of this
    request.
    """

    scores: tuple[CandidateScore, ...]
    queue_s: float = 0.0
    compute_s: float = 0.0
    batch_size: int = 1
    tokens_forwarded: int = 0
    revision: str = ""
