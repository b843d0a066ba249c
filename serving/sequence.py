"""One sequence on its way through the generation engine: what was asked for, and what has been
written so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from runtime.sampling import Sampler
from runtime.stopping import StopScanner

Finish = Literal["stop", "length", "error", "cancelled"]


@dataclass(frozen=True, slots=True)
class Delta:
    """Text as it is written, after `tokens` tokens in all. The last one says why the sequence
    ended, and which stop text ended it if one did."""

    text: str
    tokens: int
    finish: Finish | None = None
    stop: str | None = None


Sink = Callable[[Delta], None]
"""Called on the engine's thread."""


@dataclass(eq=False, slots=True)
class Sequence:
    """A prompt and what is written after it. Setting `cancelled`, from any thread, ends it before
    its next token.

    With `wants_logs`, `prompt_logs` are set before the first delta: log p of each prompt token but
    the first, in nats.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    min_tokens: int
    sampler: Sampler
    stops: tuple[str, ...]
    keep_stop: bool
    ignore_eos: bool
    sink: Sink
    wants_logs: bool = False
    prompt_logs: tuple[float, ...] = ()
    cancelled: bool = False
    written: list[int] = field(default_factory=list)
    _shown: tuple[int, int] = (0, 0)  # the window of tokens that is decoded to find the next text
    _scanner: StopScanner = field(init=False)

    def __post_init__(self) -> None:
        self._scanner = StopScanner(self.stops)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and written tokens."""
        return (*self.prompt, *self.written)

    @property
    def may_end(self) -> bool:
        """Whether it has the tokens it must have at least."""
        return len(self.written) > self.min_tokens

    def append(self, token: int, *, ends: bool, tokenizer: Any, max_len: int) -> bool:
        """Add a token and send the text that is certain; whether the sequence has ended.

        `ends` tells that the token is one of the model's end tokens; `max_len` bounds prompt and
        written tokens.
        """
        self.written.append(token)
        if ends and not self.ignore_eos and self.may_end:
            return self.end("stop", self._scanner.flush())
        text = self._new_text(tokenizer)
        if self.may_end:  # before that, a stop text is text like any other
            text = self._scanner.feed(text)
        if (stop := self._scanner.hit) is not None:
            return self.end("stop", text + stop if self.keep_stop else text, stop)
        if len(self.written) >= self.max_tokens or len(self.prompt) + len(self.written) >= max_len:
            return self.end("length", text + self._scanner.flush())
        if text:
            self.sink(Delta(text, len(self.written)))
        return False

    def end(self, finish: Finish, text: str = "", stop: str | None = None) -> Literal[True]:
        """Send the last text, and why it is the last."""
        self.sink(Delta(text, len(self.written), finish, stop))
        return True

    def _new_text(self, tokenizer: Any) -> str:
        """The text that the last tokens have added.

        Decoding starts a few tokens back, since a token's text may depend on the one before, and
        waits while a character is incomplete.
        """
        begin, end = self._shown
        before = tokenizer.decode(self.written[begin:end], skip_special_tokens=True)
        now = tokenizer.decode(self.written[begin:], skip_special_tokens=True)
        if now.endswith("�") or len(now) <= len(before):
            return ""
        self._shown = (end, len(self.written))
        return str(now[len(before) :])
