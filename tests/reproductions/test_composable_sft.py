"""The made language, the base and the arms of the reproduction of composable sparse tuning, at tiny size."""

import numpy as np
import pytest

from pairtune.data.task import Task
from pairtune.pair.base import Base
from pairtune.pair.parts import Sparse
from pairtune.reproductions import composable_sft, frame
from pairtune.reproductions.composable import base, world
from pairtune.reproductions.composable.arms import ARMS, DENSE, LANGUAGE, TASK, TICKETS, Bench
from pairtune.reproductions.composable.world import TOPICS

TINY = {
    "seeds": 1, "vocabulary": 60, "words": 10, "text_a": 60, "text_b": 10, "text_language": 40, "labelled": 24,
    "held": 12, "test": 20, "width": 16, "layers": 1, "pretraining": 3, "language steps": 4, "topics steps": 4,
}  # fmt: skip
SETTINGS = composable_sft.REPRODUCTION.settings | TINY


@pytest.fixture
def news(monkeypatch):
    """Made news in place of the data folder: a word of the topic, and words of none."""
    generator = np.random.default_rng(0)
    topics = {"World": "war", "Sports": "game", "Business": "market", "Sci/Tech": "software"}

    def rows_of(settings, name, file):
        found = []
        for i in range({"train": 160, "test": 40}[file]):
            label, word = list(topics.items())[i % 4]
            others = [f"w{chr(97 + n % 26)}" for n in generator.integers(0, 40, 8)]
            found.append({"title": f"{word.title()} news", "text": f"{word} {' '.join(others)}, 7", "label": label})
        return found

    monkeypatch.setattr(world, "rows_of", rows_of)


def test_language_b_is_a_translation_word_by_word(news, tmp_path):
    world.build(tmp_path / "tasks", SETTINGS)
    task = Task.load(tmp_path / "tasks" / "topics", **TOPICS)
    tokenizer = world.tokenizer_of(tmp_path / "tasks")
    pairs = list(zip(task.split("test"), task.split("ood/b"), strict=True))
    assert pairs and all(a["label"] == b["label"] for a, b in pairs)
    assert all(a["text"] != b["text"] and a["text"] == b["text"].lower() for a, b in pairs)
    for a, b in pairs:
        one, two = (tokenizer(row["text"])["input_ids"] for row in (a, b))
        assert len(one) == len(two) <= TINY["words"] + 2
        assert [x == tokenizer.unk_token_id for x in one] == [x == tokenizer.unk_token_id for x in two]
    words = [w for w in (tmp_path / "tasks" / "words.txt").read_text().split("\n") if w.isalpha()]
    small, large = [w for w in words if w.islower()], [w for w in words if w.isupper()]
    assert len(large) == round(SETTINGS["renamed"] * len(small)) and {w.lower() for w in large} <= set(small)
    # No text is read both in A and in B before the test.
    seen = [
        {row["text"].lower() for row in Task.load(tmp_path / "tasks" / name, kind="lm", text="text").split("train")}
        for name in ("a", "b", "language")
    ]
    assert len(set.union(*seen)) == sum(map(len, seen))


def test_the_base_is_the_same_in_every_run_and_has_a_head_of_its_own(news, tmp_path):
    world.build(tmp_path / "tasks", SETTINGS)
    one, two = (base.pretrain(tmp_path / name, tmp_path / "tasks", SETTINGS) for name in ("one", "two"))
    loaded = Base.load(one, task="lm")
    assert not loaded.new_names and loaded.fingerprint.weights == Base.load(two, task="lm").fingerprint.weights
    assert Base.load(one, task="classification", labels=["a"]).fingerprint.weights == loaded.fingerprint.weights


def test_a_part_compares_arms_that_are_run():
    run = {*ARMS, *composable_sft.ALONE}
    parts = composable_sft.REPRODUCTION.parts
    assert {arm for part in parts for arm in (part.method, part.baseline)} <= run
    assert len({part.name for part in parts}) == len(parts)


@pytest.fixture
def few(monkeypatch):
    """One learning rate an arm, and fewer arms: every kind of them."""
    kept = {name: (tuner, constraint, rates[:1]) for name, (tuner, constraint, rates) in ARMS.items()}
    for room in ("pairtune.reproductions.composable.arms.ARMS", "pairtune.reproductions.composable_sft.ARMS"):
        monkeypatch.setattr(room, kept)


def test_a_run_reports_and_goes_on_where_it_stopped(news, few, tmp_path, monkeypatch):
    from pairtune.reproductions.composable import arms

    tuned = []
    plain = arms.tune

    def counting(config, **options):
        tuned.append(config["out"])
        if len(tuned) == 5:
            raise KeyboardInterrupt
        return plain(config, **options)

    monkeypatch.setattr(arms, "tune", counting)
    reproduction = composable_sft.REPRODUCTION
    with pytest.raises(KeyboardInterrupt):
        frame.execute(reproduction, tmp_path, TINY)
    report = frame.execute(reproduction, tmp_path, TINY)
    assert len(set(tuned)) == len(tuned) - 1  # only what was stopped is begun again
    assert set(report["numbers"]) == {*ARMS, *composable_sft.ALONE}
    assert set(report["choices"]["note's rule"]["B by density"]) == {*TICKETS, DENSE}
    shared = report["choices"]["interference, LT-SFT 1%"]["shared"]
    assert 0 <= shared < report["choices"]["interference, dense"]["shared"] <= 1
    before = len(tuned)
    assert frame.execute(reproduction, tmp_path, TINY)["numbers"] == report["numbers"]
    assert len(tuned) == before
    # Deltas are what they say, and differ between densities though their first phase is one.
    bench = Bench(frame.Results.open(tmp_path, SETTINGS), tmp_path / "tasks", tmp_path / "base", SETTINGS)
    sizes = []
    for arm in TICKETS:
        delta = bench.delta(arm, LANGUAGE, 0)
        assert all(isinstance(part, Sparse) for part in delta.values())
        sizes.append(sum(len(part.index) for part in delta.values()))
    assert sizes == sorted(set(sizes))
    task = bench.delta(TICKETS[0], TASK, 0)
    assert {part.kind for part in task.values()} == {"sparse", "module"}
    sum_of_both = bench.answers([task, bench.delta(TICKETS[0], LANGUAGE, 0)])
    stored = frame.Results.open(tmp_path, SETTINGS).outcomes[TICKETS[0]][0]
    assert {name: right.tolist() for name, right in sum_of_both.items()} == stored
