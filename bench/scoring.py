"""The scoring engine against plain forwards: `python -m bench.scoring`.

Random weights in the shape that is asked for; four beams of three candidates of 100 tokens each, an elicitation of 8
and an answer of 10, on prefixes that share all but their last 200 tokens. Each line is a ratio measured in one run
beside the figure to reach, so the machine's speed drops out; `--json` keeps them with machine and date.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import platform
import random
import statistics
import sys
import threading
import time
from collections import abc, deque
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from runtime.prefix_cache import MemoryPool
from scoring.engine import ScoringEngine, Task
from scoring.judge import Judge
from scoring.sequence import Sequence
from scoring.tokens import Elicitation, Row
from scoring.types import ScoreRequest, Tree

TOKENIZER = Path("miniature/checkpoints/meta")
BEAMS, CANDIDATES, STEP, SUFFIX, ANSWER, PRIVATE = 4, 3, 100, 8, 10, 200


def _qwen3(layers: int, width: int, heads: int, inner: int) -> abc.Callable[[], Any]:
    return lambda: Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=151_936, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=8, head_dim=128, max_position_embeddings=40_960,
        )
    )  # fmt: skip


SHAPES: dict[str, abc.Callable[[], Any]] = {
    "small": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32_000, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
            num_key_value_heads=4, max_position_embeddings=32_768,
        )
    ),
    "qwen3-0.6b": _qwen3(28, 1024, 16, 3072),
    "qwen3-8b": _qwen3(36, 4096, 32, 12_288),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured line."""

    id: str
    what: str
    found: str
    reach: str
    met: bool


class Bench:
    """One model, made once."""

    def __init__(self, shape: str, device: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        with torch.device(device):
            self.model = SHAPES[shape]().to(dtype).eval()
        self.cuda = device.startswith("cuda")
        self.vocabulary = self.model.config.vocab_size
        self.tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
        self.rng = random.Random(0)

    def tokens(self, count: int) -> tuple[int, ...]:
        return tuple(self.rng.randrange(self.vocabulary) for _ in range(count))

    def judge(self, budget: int = 8 << 30) -> Judge:
        return Judge(
            "m", self.model, self.tokenizer, pool=MemoryPool(budget), elicitation=Elicitation()
        )

    def engine(self, judge: Judge, tokens: int = 1 << 14) -> ScoringEngine:
        return ScoringEngine({"m": judge}, judge.pool, batch_tokens=tokens)

    def prefixes(self, length: int) -> list[tuple[int, ...]]:
        """One search's beams: a shared trunk, and private ends."""
        trunk = self.tokens(length - PRIVATE)
        return [trunk + self.tokens(PRIVATE) for _ in range(BEAMS)]

    def candidates(self, prefixes: abc.Sequence[tuple[int, ...]]) -> list[Row]:
        """One search step's rows."""
        suffix, answer = self.tokens(SUFFIX), self.tokens(ANSWER)
        rows = []
        for prefix in prefixes:
            for _ in range(CANDIDATES):
                kept = prefix + self.tokens(STEP)
                ids = kept + suffix + answer
                rows.append(Row(ids, len(kept) + SUFFIX, len(ids), len(kept)))
        return rows

    def clock(self) -> float:
        """CPU seconds, or wall seconds of a device that has come to rest."""
        if self.cuda:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def timed(self, work: abc.Callable[[], Any], repeats: int = 3) -> float:
        """The median of the seconds that a piece of work takes."""
        taken = []
        for _ in range(repeats):
            began = self.clock()
            work()
            taken.append(self.clock() - began)
        return statistics.median(taken)

    @torch.inference_mode()
    def naive(self, row: Row) -> float:
        """A whole forward of one row with its logits cut to what is scored: mean log-probability."""
        self.model.set_attn_implementation("sdpa")
        ids = torch.tensor([row.ids], device=self.model.device)
        kept = torch.arange(row.start - 1, row.end - 1, device=ids.device)
        logs = torch.log_softmax(
            self.model(ids, use_cache=False, logits_to_keep=kept).logits[0].float(), -1
        )
        found = logs.gather(1, ids[0, row.start : row.end, None]).mean()
        self.model.set_attn_implementation("cord_tree")
        return float(found)


def as_prefix(ids: tuple[int, ...]) -> Row:
    return Row(ids, len(ids) - 1, len(ids), len(ids))


def read(judge: Judge, rows: abc.Sequence[Row], tokens: int = 1 << 14) -> list[float]:
    """Mean log-probabilities by the engine."""
    sequences = [Sequence(row) for row in rows]
    while left := [sequence for sequence in sequences if sequence.logs is None]:
        judge.forward([left], tokens)
    for sequence in sequences:
        judge.release(sequence)
    return [sum(sequence.logs or ()) / len(sequence.logs or ()) for sequence in sequences]


def distinct(rows: abc.Sequence[Row]) -> int:
    """Tokens of the trie of what must be read."""
    return len(
        {ids[: i + 1] for ids in (row.ids[: row.end - 1] for row in rows) for i in range(len(ids))}
    )


@contextmanager
def peak(bench: Bench) -> abc.Iterator[list[float]]:
    """The most memory held during a block beyond what was held before it, in MB."""
    found = [0.0]
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        yield found
        found[0] = (torch.cuda.max_memory_allocated() - held) / 1e6
        return
    stop = threading.Event()
    resident = Path("/proc/self/statm")

    def now() -> float:
        return int(resident.read_text().split()[1]) * 4096 / 1e6

    def watch() -> None:
        while not stop.wait(0.002):
            found[0] = max(found[0], now() - before)

    ctypes.CDLL(None).malloc_trim(0)  # what was freed before would be taken again unseen
    before = now()
    thread = threading.Thread(target=watch)
    thread.start()
    yield found
    stop.set()
    thread.join()


def exact(bench: Bench, limit: float, id: str) -> Figure:
    """B1: a forest of three requests, against one-sequence forwards."""
    rows = [row for length in (260, 300, 420) for row in bench.candidates(bench.prefixes(length))]
    found = read(bench.judge(), rows, 500)
    off = max(abs(a - bench.naive(row)) for a, row in zip(found, rows, strict=True))
    what = "3 requests at once against one-sequence forwards, mean log-prob"
    return Figure(id, what, f"{off:.1e} nats", f"≤ {limit:g}", off <= limit)


def speed(bench: Bench, length: int, times: float) -> list[Figure]:
    """B3 (or B4 on a GPU) and B2: one search step on known prefixes."""
    prefixes = bench.prefixes(length)
    judge = bench.judge()
    read(judge, [as_prefix(prefix) for prefix in prefixes])
    steps = [bench.candidates(prefixes) for _ in range(3)]
    read(judge, bench.candidates(prefixes))
    before = judge.forwarded
    with peak(bench) as extra:
        read(judge, steps[0])
    ratio = (judge.forwarded - before) / (
        distinct(steps[0]) - distinct([as_prefix((*p, 0)) for p in prefixes])
    )
    left = iter(steps[1:] + [bench.candidates(prefixes) for _ in range(3)])
    mine = bench.timed(lambda: read(judge, next(left)), 5)
    naive = bench.timed(lambda: bench.naive(steps[0][0]), 3) * BEAMS * CANDIDATES
    bound = flops(bench, length) / rate(bench)
    name = f"{length // 1024}k"
    return [
        Figure("B2", f"tokens computed ÷ distinct ones, {name}", f"{ratio:.3f}", "1.00", ratio <= 1.0),
        Figure("B4" if bench.cuda else "B3", f"against sliced naive, {name}", f"{naive / mine:.1f}×", f"≥ {times:g}×",
               naive / mine >= times),
        Figure("B4" if bench.cuda else "B3", f"against the FLOP bound, {name} ({1000 * mine:.0f} ms)",
               f"{mine / bound:.2f}×", "≤ 2×", mine / bound <= 2),
        Figure("B4" if bench.cuda else "B3", f"memory beyond what was held, {name}", f"{extra[0]:.0f} MB", "≤ 100 MB",
               extra[0] <= 100),
    ]  # fmt: skip


def flops(bench: Bench, length: int) -> float:
    """Floating-point operations of a step: each new token through the matrices, each query over what it sees."""
    config = bench.model.config
    head = bench.model.get_output_embeddings().weight.numel()
    matrices = sum(p.numel() for p in bench.model.base_model.parameters() if p.ndim == 2) - head
    tail = SUFFIX + ANSWER - 1
    new = BEAMS * CANDIDATES * (STEP + tail)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    seen = BEAMS * CANDIDATES * (STEP * (length + STEP / 2) + tail * (length + STEP + tail / 2))
    attention = 4 * seen * config.num_attention_heads * width * config.num_hidden_layers
    return float(2 * new * matrices + attention + 2 * BEAMS * CANDIDATES * ANSWER * head)


def rate(bench: Bench) -> float:
    """Floating-point operations a second in a large matrix product of this type on this device."""
    weight = torch.randn(2048, 2048, dtype=bench.model.dtype, device=bench.model.device)
    rows = torch.randn(1408, 2048, dtype=bench.model.dtype, device=bench.model.device)
    repeats = 200 if bench.cuda else 20
    seconds = bench.timed(lambda: [rows @ weight for _ in range(repeats)]) / repeats
    return 2 * 1408 * 2048 * 2048 / seconds


def ahead(bench: Bench) -> Figure:
    """B5: what is left of a step that was read while it was written."""
    prefixes = bench.prefixes(1024)
    judge = bench.judge()
    read(judge, [as_prefix(prefix) for prefix in prefixes])
    cold = [bench.candidates(prefixes) for _ in range(6)]
    whole = iter(cold[:3])
    late = bench.timed(lambda: read(judge, next(whole)))
    for rows in cold[3:]:
        read(judge, [as_prefix(row.ids[: row.keep]) for row in rows])
    rest = iter(cold[3:])
    early = bench.timed(lambda: read(judge, next(rest)))
    share = early / late
    return Figure(
        "B5", "critical path of a step already read, 1k", f"{share:.2f}×", "≤ 0.35×", share <= 0.35
    )


def search(bench: Bench) -> Figure:
    """B6: thirty steps; no token of a prefix is run twice."""
    judge = bench.judge()
    prefixes = [bench.tokens(50)] * BEAMS
    tails, kept = 0, set[tuple[int, ...]]()
    for _ in range(30):
        suffix = bench.tokens(SUFFIX + ANSWER)
        rows = []
        for prefix in prefixes:
            for _ in range(CANDIDATES):
                ids = prefix + bench.tokens(12)
                kept |= {ids[: i + 1] for i in range(len(ids))}
                rows.append(
                    Row(ids + suffix, len(ids) + SUFFIX, len(ids) + SUFFIX + ANSWER, len(ids))
                )
        read(judge, rows)
        tails += len(rows) * (SUFFIX + ANSWER - 1)
        prefixes = [row.ids[: row.keep] for row in bench.rng.sample(rows, BEAMS)]
    ratio = (judge.forwarded - tails) / len(kept)
    return Figure(
        "B6", "30 steps, B=4, K=3: tokens run ÷ distinct ones", f"{ratio:.3f}", "1.00", ratio == 1.0
    )


def arrivals(bench: Bench) -> list[Figure]:
    """B7: searches' steps that come when they like, against all of them in one batch and against one alone."""
    judge = bench.judge()
    engine = bench.engine(judge, 2048)
    beams = [bench.prefixes(512) for _ in range(16)]
    for prefixes in beams:
        read(judge, [as_prefix(prefix) for prefix in prefixes])

    def run(gaps: abc.Sequence[float]) -> tuple[float, list[float]]:
        """Seconds until all are done, and the seconds that each one took, sorted; `gaps` lie between arrivals."""
        waiting = deque(zip(gaps, steps(len(gaps)), strict=True))
        began, due, arrived, taken = time.perf_counter(), 0.0, dict[Task, float](), []
        while waiting or engine.busy:
            while waiting and (
                not engine.busy or due + waiting[0][0] <= time.perf_counter() - began
            ):
                gap, task = waiting.popleft()
                due += gap
                time.sleep(max(0.0, due - (time.perf_counter() - began)))
                arrived[task] = due
                engine.add(task)
            taken += [time.perf_counter() - began - arrived[task] for task in engine.step()]
        return time.perf_counter() - began, sorted(taken)

    def steps(count: int) -> list[Task]:
        made = []
        for i in range(count):
            asked = ScoreRequest(Tree((), "", ()), "step", ("m",), str(i))
            made.append(
                Task(
                    asked,
                    [],
                    {"m": [Sequence(row) for row in bench.candidates(beams[i % 16])]},
                    size=0,
                )
            )
        return made

    run([0.0] * 16)
    alone = statistics.median(run([0.0])[0] for _ in range(5))
    together, _ = run([0.0] * 16)
    gaps = [bench.rng.expovariate(16 / together) for _ in range(16)]
    makespan, _ = run(gaps)
    share = max(together, sum(gaps) + alone) / makespan
    rates = {"quarter": 4, "half": 8}
    slow = {
        name: run([bench.rng.expovariate(n / together) for _ in range(40)])[1][37] / alone
        for name, n in rates.items()
    }
    return [
        Figure("B7", "steps arriving as fast as one big batch does them: throughput", f"{share:.2f}×", "≥ 0.85×",
               share >= 0.85),
        *(
            Figure("B7", f"at a {name} of that rate: p95 of 40 against one alone", f"{p95:.2f}×", "≤ 2×", p95 <= 2)
            for name, p95 in slow.items()
        ),
    ]  # fmt: skip


def evicted(bench: Bench, limit: float) -> Figure:
    """B8: a cache too small for a search, which forgets in the middle of it."""
    prefixes = bench.prefixes(400)
    judge = bench.judge(900 * bench.judge().bytes_per_token)
    off = 0.0
    for _ in range(3):
        rows = bench.candidates(prefixes)
        for row in rows:
            [found] = read(judge, [row], 200)
            off = max(off, abs(found - bench.naive(row)))
        prefixes = [row.ids[: row.keep] for row in rows[::3]]
    lost = judge.pool.evictions
    judge.pool.shrink(0)
    met = off <= limit and lost > 0 and judge.pool.bytes == 0
    what = f"{lost} evictions in mid-search; {judge.pool.bytes} bytes leaked"
    return Figure("B8", what, f"{off:.1e} nats", f"≤ {limit:g}", met)


def main() -> int:
    """Measure and print; 1 when a figure falls short."""
    parser = argparse.ArgumentParser(prog="python -m bench.scoring", description=__doc__)
    parser.add_argument(
        "--shape",
        choices=list(SHAPES),
        default="small",
        help="of the random model (default: small)",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[1024, 4096], help="prefix tokens"
    )
    parser.add_argument("--json", type=Path, default=Path("bench/out/scoring.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    figures: list[Figure] = []
    cuda = options.device.startswith("cuda")
    bench = Bench(options.shape, options.device, torch.bfloat16 if cuda else torch.float32)
    half = bench if cuda else Bench(options.shape, options.device, torch.bfloat16)
    works: list[abc.Callable[[], Figure | list[Figure]]] = [
        lambda: exact(half, 0.05, "B1b"),
        *(
            lambda length=length: speed(bench, length, 5 if length < 4096 else 15)
            for length in options.lengths
        ),
        lambda: ahead(bench),
        lambda: search(bench),
        lambda: arrivals(bench),
    ]
    if not cuda:
        works = [lambda: exact(bench, 1e-5, "B1"), *works, lambda: evicted(bench, 1e-5)]
    with console.status("measuring") as status:
        for work in works:
            found = work()
            figures += found if isinstance(found, list) else [found]
            status.update(f"measured {figures[-1].id}")
    table = Table("", "what", "found", "to reach", "")
    for figure in figures:
        table.add_row(
            figure.id, figure.what, figure.found, figure.reach, "" if figure.met else "falls short"
        )
    console.print(table)
    machine = (
        f"{torch.cuda.get_device_name() if cuda else platform.machine()}, torch {torch.__version__}"
    )
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine,
        "shape": options.shape,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(
        json.dumps({**report, "figures": [asdict(f) for f in figures]}, indent=2) + "\n"
    )
    return 0 if all(figure.met for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
