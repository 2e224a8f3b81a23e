"""The REFLEX reproduction: its world by hand, and the whole path at a tiny size."""

import random

import pytest

from pairtune.data.task import Task
from pairtune.reproductions import frame
from pairtune.reproductions.factcheck import bench
from pairtune.reproductions.factcheck.world import VERDICTS, World, write_tasks
from pairtune.reproductions.frame import Results

REPRODUCTION = frame.load("reflex")
TINY = {"entities": 20, "relations": 6, "values": 3, "width": 16, "layers": 2, "pretraining": 2, "seeds": 1}
TINY |= {"train": 120, "validation": 16, "test": 16, "steps": 30, "rates": [0.02], "checked": 0.3}


def parsed(world, row):
    """Fact, claimed value, verdict and the value that the reason names."""
    _, _, entity, relation, value = row["text"].split()
    verdict, _, again, other, said, _ = row["answer"].split()
    assert (again, other) == (entity, relation) and verdict == row["verdict"]
    fact = (int(entity[1:]), int(relation[1:]))
    return fact, int(value[1:]), verdict == "true", int(said[1:])


def test_claims_are_right_but_for_the_wrong_ones_and_reasons_fit_the_verdict():
    world = World(REPRODUCTION.settings)
    assert not set(world.checked) & set(world.left) and len(world.facts) == len(world.checked) + len(world.left)
    right = [parsed(world, row) for row in world.rows(world.left, random.Random(1))]
    assert all(verdict == (value == world.facts[fact] == said) for fact, value, verdict, said in right)
    assert sum(verdict for _, _, verdict, _ in right) == len(right) / 2
    turned = [parsed(world, row) for row in world.rows(world.left, random.Random(1), wrong=0.15)]
    wrong = [one for one in turned if one[2] != (one[1] == world.facts[one[0]])]
    assert 0.1 < len(wrong) / len(turned) < 0.2
    assert all((said == value) == verdict for _, value, verdict, said in turned)
    texts = [world.document(random.Random(i)) for i in range(40)]
    assert len({len(text.split()) for text in texts}) == 1
    told = {f"e{e} r{r}" for e, r in world.left}
    assert not any(f"claim {fact} " in text for fact in told for text in texts)


def test_the_splits_are_of_different_facts_and_shuffling_moves_verdicts_alone(tmp_path):
    settings = REPRODUCTION.settings
    found = write_tasks(tmp_path, World(settings), settings, 3)
    tuned, shuffled = (Task.load(found[name], **bench.TASK) for name in ("tuned", "shuffled"))
    sizes = {name: len(tuned.split(name)) for name in ("train", "validation", "test")}
    assert sizes == {name: settings[name] for name in sizes} and tuned.labels == list(VERDICTS)
    facts = {name: {" ".join(row["text"].split()[2:4]) for row in tuned.split(name)} for name in sizes}
    assert not facts["train"] & facts["test"] and not facts["validation"] & (facts["train"] | facts["test"])
    assert tuned.split("validation").fingerprint == shuffled.split("validation").fingerprint
    before, after = ([row["verdict"] for row in one.split("train")] for one in (tuned, shuffled))
    assert before != after and sorted(before) == sorted(after)
    assert list(write_tasks(tmp_path, World(settings), settings, 3).values()) == list(found.values())


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return frame.execute(REPRODUCTION, tmp_path_factory.mktemp("work"), TINY)


def test_every_arm_is_run_and_kept(report, tmp_path):
    assert set(report["numbers"]) == set(bench.ARMS) and report["seeds"] == [0]
    assert set(report["numbers"]["anchored"]) == {bench.TEST, bench.LOST, bench.GAINED, bench.REASONS}
    assert {part["name"] for part in report["parts"]} == {part.name for part in REPRODUCTION.parts}
    notes = report["choices"]
    chosen = notes["vectors"]["0"]["chosen"]
    if chosen is None:
        assert report["numbers"]["anchored"] == report["numbers"]["tuned"]
    else:
        assert report["numbers"]["anchored"] == report["numbers"][bench.NAMES[chosen]]
    assert set(notes["macro F1"]["0"]) == set(bench.ARMS)
    assert sum(notes["vectors"]["0"]["quadrants"].values()) == 120


def test_a_finished_seed_is_not_run_again(report, tmp_path, monkeypatch):
    results = Results(tmp_path, {arm: {0: {}} for arm in bench.ARMS}, {"settings": {}})
    monkeypatch.setattr(bench, "write_tasks", None)  # which would be called first
    bench.Bench(results, TINY, World(REPRODUCTION.settings | TINY), tmp_path).run(0, 0.1)
