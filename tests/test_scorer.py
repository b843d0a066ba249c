"""The decoder's scorer: what it asks the scoring service for each score, and what it makes of the reply."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from proxy.decoder.types import Message, Problem, Source
from proxy.errors import ScorerError
from proxy.scorer import RemoteScorer
from scoring.client import BadScoreRequest, ScorerUnavailable
from scoring.scores import SCORES
from scoring.types import CandidateScore, ModelScore, ScoreReply, ScoreRequest

pytestmark = pytest.mark.anyio

PROBLEM = Problem("r1", (Message("user", "2+2?"),), references=("4", "four"))
REPLY = ScoreReply(
    (CandidateScore(-3.0, 6.0, (ModelScore("meta", -3.0, 2, 6),), ("4", "", "5")),),
    queue_s=0.5,
    batch_size=2,
    tokens_forwarded=9,
)


@dataclass
class ScriptedService:
    """Remembers requests, and answers all of them alike."""

    outcome: ScoreReply | Exception = REPLY
    requests: list[ScoreRequest] = field(default_factory=list)

    async def score(self, request: ScoreRequest) -> ScoreReply:
        self.requests.append(request)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def scorer(service: ScriptedService) -> RemoteScorer:
    return RemoteScorer(service, "meta", ("meta", "bob", "eve"), ("rm",))


@pytest.mark.parametrize("name", SCORES)
async def test_each_score_is_asked_for_and_read_as_the_registry_says(name: str) -> None:
    service, spec = ScriptedService(), SCORES[name]
    pool = {"5": 0.75, "6": 0.25} if spec.source == "consensus" else None
    score = await scorer(service).score(PROBLEM, "One.\n\n", "Two.\n\n", name, "bob", pool)
    [request] = service.requests
    answers = {"reference": ("4", "four"), "consensus": ("5", "6"), "none": ()}[spec.source]
    assert (request.objective, request.request_id) == (spec.objective, "r1")
    assert (request.tree.answers, request.tree.weights) == (answers, tuple((pool or {}).values()))
    assert (score.additive, score.source) == (spec.additive, Source(spec.source))
    assert (score.nats, score.length, score.queue_s) == (-3.0, 6.0, 0.5)


@pytest.mark.parametrize(
    ("name", "proposer", "models"),
    [
        ("step", "bob", ("meta",)),
        ("cross", "bob", ("meta", "bob", "eve")),
        ("cross-others", "bob", ("meta", "eve")),
        ("cross-others", "zoe", ("meta", "bob", "eve")),
        ("contrastive", "bob", ("meta", "bob")),
        ("reward", "bob", ("rm",)),
    ],
)
async def test_the_models_asked_depend_on_who_wrote_the_step(
    name: str, proposer: str, models: tuple[str, ...]
) -> None:
    service = ScriptedService()
    await scorer(service).score(PROBLEM, "", "Two.\n\n", name, proposer)
    assert service.requests[0].models == models


async def test_what_judges_could_not_answer_is_left_out() -> None:
    assert await scorer(ScriptedService()).elicit(PROBLEM, "", "Two.\n\n") == (("4", "5"), 9)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (ScorerUnavailable("gone"), "unavailable"),
        (BadScoreRequest("too long", code="context_length_exceeded"), "context_overflow"),
        (BadScoreRequest("no"), "refused"),
    ],
)
async def test_the_services_errors_become_the_decoders(failure: Exception, kind: str) -> None:
    with pytest.raises(ScorerError) as caught:
        await scorer(ScriptedService(failure)).score(PROBLEM, "", "Two.\n\n", "step")
    assert caught.value.kind == kind


async def test_reading_a_step_that_is_being_written_is_a_hint_and_never_fails() -> None:
    service = ScriptedService(ScorerUnavailable("gone"))
    await scorer(service).read(PROBLEM, "", "Tw", "cross")
    [request] = service.requests
    assert (
        request.ahead and request.objective == "step" and request.models == ("meta", "bob", "eve")
    )
    assert not request.tree.answers
