"""A model that is served elsewhere: prompt log-probabilities by vLLM or SGLang, or the classes of a
reward model.

For users whose meta-prover is up already. Each row is one call with the whole row as its prompt.
vLLM computes all of it anew (asking for prompt log-probabilities turns its prefix cache off), which
costs a prefill of prefix and step a candidate; SGLang reuses what lies before the scored tokens.
Nothing of a tree is shared within a step, so a local judge is many times cheaper. A served model
cannot be checked to score exactly, and elicits no answers.
"""

from __future__ import annotations

import math
import os
from collections import abc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from transformers import AutoTokenizer

from runtime.checkpoints import checkpoint
from scoring.errors import BadScoreRequest, ScorerUnavailable
from scoring.sequence import Sequence
from scoring.tokens import Elicitation, Encoder, Row

_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class RemoteServer:
    """How a server is asked for a row's log-probabilities, and where they are in what it says."""

    path: str
    body: abc.Callable[[Row, str], dict[str, Any]]
    logs: abc.Callable[[Row, Any], list[float]]
    grades: bool = False


def _vllm_logs(row: Row, reply: Any) -> list[float]:
    """`prompt_logprobs` has an entry a prompt token, by the token's id."""
    found = reply["choices"][0]["prompt_logprobs"]
    return [found[at][str(row.ids[at])]["logprob"] for at in range(row.start, row.end)]


def _sglang_logs(row: Row, reply: Any) -> list[float]:
    """`input_token_logprobs` has [log-probability, id, text] from the asked position on; the first
    has none."""
    found = reply["meta_info"]["input_token_logprobs"][-(row.end - row.start) :]
    if [entry[1] for entry in found] != list(row.ids[row.start : row.end]):
        raise ValueError("the log-probabilities are of other tokens")
    return [entry[0] for entry in found]


def _class_log(row: Row, reply: Any) -> list[float]:
    """vLLM's `/classify` gives each class's probability; the last class is the good one."""
    return [math.log(max(reply["data"][0]["probs"][-1], 1e-30))]


REMOTE_SERVERS = {
    "vllm": RemoteServer(
        "completions",
        lambda row, model: {
            "model": model,
            "prompt": list(row.ids[: row.end]),
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        },
        _vllm_logs,
    ),
    "sglang": RemoteServer(
        "generate",
        lambda row, model: {
            "input_ids": list(row.ids[: row.end]),
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "return_logprob": True,
            "logprob_start_len": row.start - 1,
        },
        _sglang_logs,
    ),
    "classify": RemoteServer(
        "classify",
        lambda row, model: {"model": model, "input": list(row.ids)},
        _class_log,
        grades=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a served model is: DIALECT+http://HOST/PATH?tokenizer=FOLDER&key=VARIABLE#MODEL.

    The tokenizer is the model's own unless said otherwise; `key` names the environment variable of
    an API key.
    """

    server: str
    url: str
    model: str
    tokenizer: str
    key: str | None

    @classmethod
    def parse(cls, location: str) -> Address | None:
        """None for anything that is not such an address, like a checkpoint's folder.

        Raises:
            ValueError: the dialect is unknown, or the model is missing.
        """
        parts = urlsplit(location)
        dialect, plus, scheme = parts.scheme.partition("+")
        if not plus or scheme not in ("http", "https"):
            return None
        if dialect not in REMOTE_SERVERS:
            raise ValueError(f"{location}: {dialect} is none of {', '.join(REMOTE_SERVERS)}")
        if not parts.fragment:
            raise ValueError(f"{location}: #MODEL is missing")
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        url = f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}/"
        return cls(
            dialect, url, parts.fragment, query.get("tokenizer", parts.fragment), query.get("key")
        )


class RemoteJudge:
    """One served model. It reads rows whole and keeps nothing of them."""

    reads_at_once = True

    def __init__(
        self,
        name: str,
        address: Address,
        tokenizer: Any,
        *,
        elicitation: Elicitation,
        timeout_s: float = 120.0,
    ) -> None:
        key = os.environ.get(address.key or "", "")
        self.name = name
        self.encoder = Encoder(tokenizer, elicitation)
        self.forwarded = 0
        self.reused = 0
        self._address = address
        self._server = REMOTE_SERVERS[address.server]
        self.grades = self._server.grades
        self._client = httpx.Client(
            base_url=address.url,
            timeout=timeout_s,
            headers={"authorization": f"Bearer {key}"} if key else {},
        )
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix=name)

    @classmethod
    def load(cls, name: str, address: Address, *, elicitation: Elicitation) -> RemoteJudge:
        """Load the tokenizer; the server is not asked anything yet."""
        with checkpoint(address.tokenizer):
            tokenizer = AutoTokenizer.from_pretrained(address.tokenizer)
        return cls(name, address, tokenizer, elicitation=elicitation)

    def check(self, rows: abc.Sequence[Row]) -> int:
        """As `Judge.check`; no memory is needed here, and only the server knows how much it can
        read."""
        for row in rows:
            if row.write:
                raise BadScoreRequest(
                    f"{self.name} is served elsewhere and elicits no answers", param="objective"
                )
            if row.end <= row.start:
                raise BadScoreRequest(
                    "a candidate or answer has no text to score", param="tree.candidates"
                )
        return 0

    def read(self, sequences: abc.Sequence[Sequence]) -> None:
        """Have the log-probabilities of all sequences told, equal rows once. Blocks; may be called
        from any thread.

        Raises:
            BadScoreRequest: the server refused a row.
            ScorerUnavailable: it does not answer, or not as its dialect does.
        """
        rows = list(dict.fromkeys(sequence.row for sequence in sequences))
        found = dict(zip(rows, self._threads.map(self._ask, rows), strict=True))
        for sequence in sequences:
            sequence.logs = found[sequence.row]
            sequence.fresh = len(sequence.row.ids)
            self.forwarded += sequence.fresh

    def forward(self, searches: abc.Sequence[abc.Sequence[Sequence]], tokens: int) -> None:
        """After `read` there is nothing left to do."""

    def release(self, sequence: Sequence) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(cancel_futures=True)
        self._client.close()

    def _ask(self, row: Row) -> tuple[float, ...]:
        try:
            reply = self._client.post(
                self._server.path, json=self._server.body(row, self._address.model)
            )
        except httpx.TransportError as exc:
            raise ScorerUnavailable(f"{self.name}: {type(exc).__name__}: {exc}") from exc
        if reply.is_client_error:
            code = "context_length_exceeded" if "maximum context length" in reply.text else None
            raise BadScoreRequest(
                f"{self.name}: HTTP {reply.status_code}: {reply.text[:500]}", code=code
            )
        if not reply.is_success:
            raise ScorerUnavailable(f"{self.name}: HTTP {reply.status_code}: {reply.text[:500]}")
        try:
            return tuple(self._server.logs(row, reply.json()))
        except (KeyError, IndexError, TypeError, ValueError) as exc:
            raise ScorerUnavailable(
                f"{self.name}: not a {self._address.server} reply: {exc!r}"
            ) from exc
