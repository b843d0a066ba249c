"""The answer: which teacher writes it on top of the winning reasoning, and in how much time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import anyio

from proxy.decoder import selection
from proxy.decoder.events import AnswerDelta, AnswerRequested, TeacherFailed
from proxy.decoder.limits import Limits
from proxy.decoder.ports import Emit, Teacher
from proxy.decoder.settings import Settings
from proxy.decoder.stated import stated_answer
from proxy.decoder.steps import Segmentation
from proxy.decoder.types import (
    Continuation,
    FinishReason,
    Problem,
    Result,
    StopCause,
    TeacherRequest,
    Trajectory,
)
from proxy.errors import SearchError, TeacherError


@dataclass(frozen=True, slots=True)
class Answering:
    """Who may answer one problem, and under which limits. `due_s` is on anyio's clock."""

    problem: Problem
    panel: Sequence[Teacher]
    settings: Settings
    segmentation: Segmentation
    limits: Limits
    due_s: float
    emit: Emit

    async def write(self, winner: Trajectory, stopped: StopCause) -> Result:
        """Have the answer written.

        A teacher that fails or says nothing is replaced by the next. Once text was sent nothing
        can be taken back: the search fails. When time is up, what was written is the answer.

        A model without thinking markup often answers in its last step and ends its turn: what it
        stated there is the answer, and is not written again.

        Raises:
            SearchError: no teacher wrote an answer, or none in time.
        """
        closer = winner.candidates[-1].teacher
        request = self._request(winner)
        if request.max_tokens <= 0:
            return self._result(winner, stopped, _Reply(self.emit), closer, None, "length")
        if (stated := self._stated(winner)) is not None:
            reply = _Reply(self.emit)
            reply.on_text(stated)
            return replace(
                self._result(winner, stopped, reply, closer, None, "stop"), answer_tokens=0
            )
        reasons: list[str] = []
        for teacher in self._answerers(closer):
            self.emit(AnswerRequested(teacher.name))
            reply = _Reply(self.emit)
            written: Continuation | None = None
            with anyio.move_on_at(self.due_s) as time:
                try:
                    written = await teacher.write(request, reply.on_text)
                except TeacherError as exc:
                    self.emit(TeacherFailed(None, teacher.name, exc.kind, str(exc)))
                    reasons.append(str(exc))
                    if reply.text:
                        break
                    continue
            if time.cancelled_caught:
                return self._late(winner, reply, teacher.name)
            assert written is not None
            if not reply.text and written.ended != "marker":
                message = f"{teacher.name}: wrote an empty answer"
                self.emit(TeacherFailed(None, teacher.name, "broken", message))
                reasons.append(message)
                continue
            finish: FinishReason = "length" if written.ended == "length" else "stop"
            return self._result(winner, stopped, reply, teacher.name, written, finish)
        reason = "; ".join(reasons) or "no teacher of this ensemble can write what is asked for"
        raise SearchError("no_answer", reason)

    def _stated(self, winner: Trajectory) -> str | None:
        """The answer that the last step states, where the turn ended with it and text is asked for."""
        last, problem = winner.candidates[-1], self.problem
        asks_for_text = problem.format is None and not problem.tools and not problem.stop
        if last.ended != "eos" or not asks_for_text or self.settings.answerer is not None:
            return None
        return stated_answer(last.text)

    def _request(self, winner: Trajectory) -> TeacherRequest:
        sampling = self.settings.sampling
        return TeacherRequest(
            messages=self.segmentation.instruct(self.problem.messages),
            reasoning=winner.text,
            answer="",
            stop=self.problem.stop,
            max_tokens=self.limits.answer_tokens(winner),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=selection.derive(sampling.seed, "answer"),
            format=self.problem.format,
            tools=self.problem.tools,
        )

    def _answerers(self, closer: str) -> list[Teacher]:
        """The teachers that can write what is asked for; the configured one or the closer first."""
        first, problem = self.settings.answerer or closer, self.problem
        able = [
            teacher
            for teacher in self.panel
            if (teacher.supports_response_format or problem.format is None)
            and (teacher.supports_tools or not problem.tools)
        ]
        return sorted(able, key=lambda teacher: teacher.name != first)

    def _late(self, winner: Trajectory, reply: _Reply, teacher: str) -> Result:
        """What there is when time is up."""
        self.emit(TeacherFailed(None, teacher, "timeout", f"{teacher}: cut off at the deadline"))
        if not reply.text:
            limit = f"{self.limits.answer_s:g} s"
            raise SearchError("deadline", f"no answer was written within {limit} of the request")
        return self._result(winner, "deadline", reply, teacher, None, "length")

    def _result(
        self,
        winner: Trajectory,
        stopped: StopCause,
        reply: _Reply,
        teacher: str,
        written: Continuation | None,
        finish: FinishReason,
    ) -> Result:
        """The result; of an answer that was cut off its server told no tokens."""
        return Result(
            winner=winner,
            value=winner.value(self.settings.length_penalty),
            stopped=stopped,
            answer=reply.text,
            answerer=teacher,
            answer_tokens=written.completion_tokens if written else reply.deltas,
            answer_prompt_tokens=written.prompt_tokens if written else 0,
            finish_reason=finish,
        )


@dataclass(slots=True)
class _Reply:
    """The answer as it arrives, without the blank lines that templates put before it."""

    emit: Emit
    text: str = ""
    deltas: int = 0

    def on_text(self, delta: str) -> None:
        delta = delta if self.text else delta.lstrip()
        if delta:
            self.text += delta
            self.deltas += 1
            self.emit(AnswerDelta(delta))
