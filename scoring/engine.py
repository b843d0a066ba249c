"""Many searches on one device: requests become sequences under each model, forward by forward,
shared and fair.

Nothing waits for a batch to end: each forward takes what every request in progress needs next, an
equal share of the token budget for every search and the rest to the oldest, and a request is
answered as soon as its own rows are read. Single-threaded: one caller at a time steps it
(`scoring.batcher` sees to it).
"""

from __future__ import annotations

import gc
import hashlib
import logging
import time
from collections import abc, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from runtime.prefix_cache import MemoryPool
from scoring.errors import BadScoreRequest, ScorerUnavailable, ScoringError
from scoring.grader import Grader, is_grader
from scoring.judge import Judge
from scoring.objective import Marks, Passage, objective
from scoring.remote import Address, RemoteJudge
from scoring.sequence import FollowUp, Sequence
from scoring.tokens import Elicitation, Encoder, Row
from scoring.types import CandidateScore, ScoreRequest

log = logging.getLogger(__name__)

_HASHED_BYTES = 1 << 26
"""Larger checkpoints are identified by where they are."""

_FEWEST_TOKENS = 16
"""Below so many tokens a forward, being out of memory is not the forward's fault."""

_CALM_STEPS = 256
"""After so many forwards without an out-of-memory error, twice as many tokens are tried again."""


class Reader(Protocol):
    """A model that gives sequences their log-probabilities: in steps on our device, or whole where
    `reads_at_once`."""

    name: str
    encoder: Encoder
    forwarded: int
    reused: int

    @property
    def grades(self) -> bool:
        """Whether it is a reward model."""
        ...

    @property
    def reads_at_once(self) -> bool:
        """Whether `read` does all of its work, and `forward` none."""
        ...

    def check(self, rows: abc.Sequence[Row]) -> int:
        """The bytes of cache that these rows need at the same time, at most.

        Raises:
            BadScoreRequest: it cannot read them.
        """
        ...

    def read(self, sequences: abc.Sequence[Sequence]) -> None:
        """Where `reads_at_once`, read whole sequences; blocks, and may be called from any thread.

        Raises:
            ScoringError: the model is away, or refuses them.
        """
        ...

    def forward(self, searches: abc.Sequence[abc.Sequence[Sequence]], tokens: int) -> None:
        """Otherwise, read on in one forward of so many tokens at most; each search gets an equal
        share."""
        ...

    def release(self, sequence: Sequence) -> None:
        """Give back what a sequence holds."""
        ...

    def close(self) -> None:
        """Close connections, if there are any."""
        ...


@dataclass(eq=False, slots=True)
class Task:
    """A request in progress. Setting `cancelled` drops it before its next forward."""

    request: ScoreRequest
    passages: list[Passage]
    sequences: dict[str, list[Sequence]]
    size: int
    arrived: float = field(default_factory=time.monotonic)
    began: float | None = None
    ended: float | None = None
    together: int = 1
    cancelled: bool = False
    scores: tuple[CandidateScore, ...] = ()
    error: Exception | None = None

    @property
    def complete(self) -> bool:
        return all(sequence.logs is not None for sequence in self.all_sequences())

    @property
    def forwarded(self) -> int:
        """Tokens that ran through a model because of this request."""
        return sum(sequence.fresh for sequence in self.all_sequences())

    def all_sequences(self) -> abc.Iterable[Sequence]:
        for sequences in self.sequences.values():
            yield from sequences

    def combine(self) -> tuple[CandidateScore, ...]:
        """Each candidate's score, once every sequence is done."""
        tree = self.request.tree
        found: list[list[list[Marks]]] = [[] for _ in tree.candidates]
        for i, passage in enumerate(self.passages):
            parts = []
            for name in self.request.models:
                sequence = self.sequences[name][i]
                assert sequence.logs is not None
                size = len(passage.scored.encode())
                parts.append(Marks(name, sequence.logs, size, sequence.answer, passage.weight))
            if tree.proposed:
                parts.append(
                    Marks(
                        "proposer",
                        (tree.proposed[passage.candidate],),
                        len(passage.scored.encode()),
                    )
                )
            found[passage.candidate].append(parts)
        combine = objective(self.request.objective).combine
        return tuple(
            combine(text, parts) for text, parts in zip(tree.candidates, found, strict=True)
        )


class ScoringEngine:
    """Several judges sharing one device and one memory budget.

    In-process use:

        engine = ScoringEngine.load({"meta": "path/to/model"})
        tree = Tree((Message("user", "2+2?"),), "", ("### Step 1. Two and two.\\n\\n",), ("4",))
        [task] = engine.score([ScoreRequest(tree, "predictive", ("meta",))])
        print(task.error or task.scores[0].nats)
    """

    def __init__(
        self,
        judges: abc.Mapping[str, Reader],
        pool: MemoryPool,
        *,
        batch_tokens: int = 4096,
        revision: str = "",
    ) -> None:
        """`pool` is the one the local judges were made with."""
        self.judges = dict(judges)
        self.pool = pool
        self.revision = revision
        self.batch_tokens = batch_tokens
        self._tokens = batch_tokens
        self._calm = 0
        self._arrived: deque[Task] = deque()
        self._running: list[Task] = []

    @classmethod
    def load(
        cls,
        models: abc.Mapping[str, str],
        *,
        device: str = "auto",
        dtype: str = "auto",
        kv_budget_mb: int = 1024,
        pool: MemoryPool | None = None,
        batch_tokens: int = 4096,
        elicitations: abc.Mapping[str, Elicitation] | None = None,
    ) -> ScoringEngine:
        """Load checkpoints by name, folders, hub names or addresses (`scoring.remote.Address`) of
        served models.

        `kv_budget_mb` MiB of cache are for all of them, or a `pool` that other engines use too (not
        at the same time); elicitations go by model.
        """
        pool = pool or MemoryPool(kv_budget_mb << 20)
        judges: dict[str, Reader] = {}
        for name, location in models.items():
            elicitation = (elicitations or {}).get(name, Elicitation())
            if (address := Address.parse(location)) is not None:
                judges[name] = RemoteJudge.load(name, address, elicitation=elicitation)
            elif is_grader(location):
                judges[name] = Grader.load(
                    name, location, device=device, dtype=dtype, elicitation=elicitation
                )
            else:
                judges[name] = Judge.load(
                    name, location, device=device, dtype=dtype, pool=pool, elicitation=elicitation
                )
        return cls(judges, pool, batch_tokens=batch_tokens, revision=_revision(models))

    def open(self, request: ScoreRequest) -> Task:
        """A task for a request, in tokens. Touches no device.

        Raises:
            BadScoreRequest: it can never be scored as it is.
        """
        if not request.models:
            raise BadScoreRequest("at least one model is needed", param="models")
        for name in request.models:
            if name not in self.judges:
                raise BadScoreRequest(
                    f"unknown model {name!r}; known are {', '.join(self.judges)}", param="models"
                )
        tree = request.tree
        if tree.proposed and len(tree.proposed) != len(tree.candidates):
            raise BadScoreRequest("one number a candidate is needed", param="tree.proposed")
        wanted = objective(request.objective)
        passages = wanted.passages(request)
        sequences, size = {}, 0
        for name in request.models:
            judge = self.judges[name]
            if judge.grades != wanted.graded:
                kind = "a reward model" if judge.grades else "no reward model"
                raise BadScoreRequest(
                    f"{name} is {kind}: it cannot tell {request.objective}", param="models"
                )
            rows = [judge.encoder.row(tree.messages, passage) for passage in passages]
            size += judge.check(rows)
            sequences[name] = [
                Sequence(row, FollowUp(tree.messages, passage) if passage.ahead else None)
                for row, passage in zip(rows, passages, strict=True)
            ]
        if size > self.pool.budget:
            message = f"all models together would need {size >> 20} MiB; the budget is {self.pool.budget >> 20}"
            raise BadScoreRequest(message, param="models", code="kv_budget_exceeded")
        return Task(request, passages, sequences, size)

    def fetches(self, task: Task) -> bool:
        """Whether one of its models does not take part in the steps."""
        return any(self.judges[name].reads_at_once for name in task.sequences)

    def fetch(self, task: Task) -> None:
        """Have its rows read by those of its models that do it at once, elsewhere or whole, before
        it is added; blocks.

        Raises:
            ScoringError: as `RemoteJudge.read`.
        """
        for name, sequences in task.sequences.items():
            if self.judges[name].reads_at_once:
                self.judges[name].read(sequences)

    def add(self, task: Task) -> None:
        """Have a task worked on by the next steps. May be called from any thread."""
        self._arrived.append(task)

    @property
    def busy(self) -> bool:
        """Whether a step would find something to do."""
        return bool(self._arrived or self._running)

    def step(self) -> list[Task]:
        """One forward of each model that is wanted; the tasks that it ended, cancelled ones among
        them.

        A task whose forward failed ends with an `error`; nothing is raised.
        """
        while self._arrived:
            self._running.append(self._arrived.popleft())
        admitted = self._admitted()
        for task in admitted:
            task.began = task.began or time.monotonic()
            task.together = max(task.together, len(admitted))
        for name, judge in self.judges.items():
            wanting = [task for task in admitted if name in task.sequences and task.error is None]
            if wanting and not judge.reads_at_once:
                self._forward(judge, wanting)
        ended = [
            task
            for task in self._running
            if task.cancelled or task.error is not None or task.complete
        ]
        for task in ended:
            self._end(task)
        self._running = [task for task in self._running if task.ended is None]
        return ended

    def score(self, requests: abc.Sequence[ScoreRequest]) -> list[Task]:
        """Score requests together, each as if it were alone. A bad one gets its `error`, the others
        their `scores`."""
        tasks = []
        for request in requests:
            try:
                task = self.open(request)
                self.fetch(task)
                self.add(task)
            except ScoringError as exc:
                task = Task(request, [], {}, 0, error=exc)
            tasks.append(task)
        while self.busy:
            self.step()
        return tasks

    def close(self) -> None:
        """Let go of the connections to models that are served elsewhere."""
        for judge in self.judges.values():
            judge.close()

    def _admitted(self) -> list[Task]:
        """The oldest tasks whose trees fit into the budget together; work ahead only when there is
        no other."""
        waiting = [task for task in self._running if not task.cancelled]
        admitted, size = [], 0
        for task in [task for task in waiting if not task.request.ahead] or waiting:
            size += task.size
            if size > self.pool.budget:
                break
            admitted.append(task)
        return admitted

    def _forward(self, judge: Reader, tasks: abc.Sequence[Task]) -> None:
        searches: dict[str, list[Sequence]] = {}
        for task in tasks:
            searches.setdefault(task.request.request_id, []).extend(
                sequence for sequence in task.sequences[judge.name] if sequence.logs is None
            )
        try:
            judge.forward(list(filter(None, searches.values())), self._tokens)
        except torch.OutOfMemoryError as exc:
            self._shrink(judge.name, tasks, exc)
        except Exception as exc:  # whatever a device raises must not strand the callers
            log.exception("%s failed", judge.name)
            for task in tasks:
                task.error = exc
        else:
            self._calm += 1
            if self._calm >= _CALM_STEPS:
                self._tokens, self._calm = min(self.batch_tokens, 2 * self._tokens), 0

    def _shrink(self, name: str, tasks: abc.Sequence[Task], exc: torch.OutOfMemoryError) -> None:
        """Give back what nobody uses, and try fewer tokens at a time from the next step on."""
        self.pool.shrink(0)
        self._calm = 0
        if self._tokens > _FEWEST_TOKENS:
            self._tokens = max(_FEWEST_TOKENS, self._tokens // 2)
            log.warning("%s is out of memory; trying %d tokens a forward", name, self._tokens)
        else:
            for task in tasks:
                task.error = ScorerUnavailable(f"{name} is out of memory: {exc}")
        gc.collect()
        torch.cuda.empty_cache()

    def _end(self, task: Task) -> None:
        for name, sequences in task.sequences.items():
            for sequence in sequences:
                self.judges[name].release(sequence)
        task.ended = time.monotonic()
        if task.error is None and not task.cancelled:
            task.scores = task.combine()


def _revision(models: abc.Mapping[str, str]) -> str:
    """What identifies these models in a trace: their names, and the contents of small
    checkpoints."""
    digest = hashlib.sha256()
    for name, location in sorted(models.items()):
        digest.update(name.encode())
        files = sorted(Path(location).glob("*.safetensors"))
        small = bool(files) and sum(file.stat().st_size for file in files) < _HASHED_BYTES
        digest.update(b"".join(file.read_bytes() for file in files) if small else location.encode())
    return digest.hexdigest()[:16]
