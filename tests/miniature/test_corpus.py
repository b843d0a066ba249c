"""Training samples: what is learned, and what each token may see."""

from __future__ import annotations

import random

import pytest
import torch

from miniature.corpus import IGNORED, Batch, Sample, Writer, collate
from miniature.recipes import RECIPES
from miniature.task import Label
from miniature.tokens import build_tokenizer


@pytest.fixture(scope="module", params=list(RECIPES))
def writer(request: pytest.FixtureRequest) -> Writer:
    recipe = RECIPES[request.param]
    return Writer(recipe, build_tokenizer(recipe))


def _tree() -> Batch:
    sample = Sample()
    sample.extend([1, 2], learn=False)
    sample.extend([3, 4], learn=True)
    sample.fork([5, 6], cut=3, number=1)
    return collate([sample], pad=0)


def test_branch_sees_the_trunk_up_to_its_cut_and_itself() -> None:
    mask = _tree().mask
    assert mask is not None
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 1, 0],
        [1, 1, 1, 0, 1, 1],
    ]


def test_target_is_the_next_token_of_the_same_path() -> None:
    tree = _tree()
    assert tree.targets.tolist() == [[IGNORED, 3, 4, IGNORED, 6, IGNORED]]
    assert tree.positions.tolist() == [[0, 1, 2, 3, 3, 4]]


def test_padding_is_never_learned_and_never_blinds_a_row() -> None:
    short, long = Sample(), Sample()
    short.extend([1, 2], learn=True)
    long.extend([1, 2, 3], learn=True)
    long.fork([4, 5], cut=1, number=1)
    batch = collate([short, long], pad=9)
    assert batch.ids[0].tolist() == [1, 2, 9, 9, 9]
    assert batch.targets[0].tolist() == [2, IGNORED, IGNORED, IGNORED, IGNORED]
    assert batch.mask is not None and bool(batch.mask.any(-1).all())


def test_samples_are_drawn_from_their_seed_alone(writer: Writer) -> None:
    first, again, other = (writer.sample(random.Random(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_learned_text_ends_with_the_boxed_label_and_the_end_of_turn(writer: Writer) -> None:
    sample = writer.sample(random.Random(3))
    trunk = [i for i, branch in enumerate(sample.branch) if branch == 0]
    text = writer.decode([sample.ids[i] for i in trunk])
    assert Label.find_last(text) is not None
    assert sample.targets[trunk[-2]] == sample.ids[trunk[-1]] == writer.end
    assert torch.tensor(sample.targets).ne(IGNORED).any()


_MARKS = {"alder": " becomes", "birch": "->", "cedar": " is "}


@pytest.mark.parametrize("name", list(_MARKS))
def test_own_steps_are_learned_and_half_of_the_others_are_read(name: str) -> None:
    writer = Writer(RECIPES[name], build_tokenizer(RECIPES[name]))
    header, blank = writer.encode("### Step"), writer.encode("\n\n")
    learned: dict[str, list[bool]] = {"own": [], "foreign": []}
    for seed in range(60):
        sample = writer.sample(random.Random(seed))
        starts = [i for i in range(len(sample.ids)) if sample.ids[i : i + len(header)] == header]
        for start in starts:
            end = sample.ids.index(blank[0], start)
            text = writer.decode(sample.ids[start:end])
            if text.startswith("### Step N"):
                continue  # the instruction
            kind = "own" if _MARKS[name] in text else "foreign"
            unlearned = sum(target == IGNORED for target in sample.targets[start:end])
            assert unlearned <= 1 or unlearned == end - start
            learned[kind].append(unlearned <= 1)
    assert all(learned["own"])
    assert 0.2 < len(learned["foreign"]) / sum(map(len, learned.values())) < 0.4
    assert 0.3 < sum(learned["foreign"]) / len(learned["foreign"]) < 0.7
