"""The transfer reproduction: its measures against their definitions, its bases, and the whole path at a tiny size."""

import gzip
import json

import numpy as np
import pytest
from tests.conftest import WORDS
from tests.merging.bases import nudged, stored

from pairtune.pair.staging import staged_folder
from pairtune.reproductions import frame
from pairtune.reproductions.frame import Results
from pairtune.reproductions.transfer import measures
from pairtune.reproductions.transfer.bases import ALONE, RUN, bases
from pairtune.reproductions.transfer.measures import base, halvings, moved, recovered, tuned

REPRODUCTION = frame.load("finetuning-transfer")
TINY = {"shape": ["--layers", "1", "--width", "16", "--inner", "32"], "part_steps": 1, "characters": 6000}
TINY |= {"steps": 16, "every": 8, "intents": 2, "rows": 8, "rates": [1e-2], "seeds": 1, "precision": "float32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder of the same form as the real one."""
    place = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)

    def write(name, rows):
        path = place / f"{name}.gz"
        path.parent.mkdir(exist_ok=True)
        text = rows if isinstance(rows, str) else "\n".join(json.dumps(row) for row in rows)
        path.write_bytes(gzip.compress(text.encode()))

    def words(count):
        return " ".join(generator.choice(WORDS, count))

    for name, count in (("train", 12), ("val", 4), ("test", 4)):
        rows = [{"text": f"{intent} {words(4)}", "intent": intent} for intent in ("cat", "dog") for _ in range(count)]
        write(f"clinc150/{name}.jsonl", rows)
    write("gutenberg_stories/children_train.jsonl", [{"text": words(900)} for _ in range(3)])
    write("wikitext2/valid.txt", words(900))
    keys = ("instruction", "input", "output")
    write("instructions_small/train.jsonl", [{key: words(60) for key in keys} for _ in range(20)])
    return place


def accuracies(gain=0.4):
    """Of a world in which R falls by a quarter with every step of the run and another run's delta does nothing."""
    found = {base(i): 0.1 for i in (*RUN, ALONE)} | {tuned(i): 0.1 + gain for i in (*RUN, ALONE)}
    found |= {moved(i, j): 0.1 + gain * (1.1 - 0.25 * abs(i - j)) for i, j in measures.PAIRS}
    found |= {moved(i, j): 0.1 for i, j in measures.CONTROL}
    return found | {measures.RECYCLED: 0.5, measures.DIRECT: 0.4}


def test_the_recovered_share_is_the_note_s():
    accuracy = accuracies()
    assert recovered(accuracy, 4, 5) == pytest.approx(0.85)
    assert recovered(accuracy, 1, 5) == pytest.approx(0.1)
    assert recovered(accuracy, ALONE, 2) == 0.0
    assert recovered(accuracies(0.0), 4, 5) is None


def test_the_rank_correlation_leaves_out_what_has_no_share():
    assert measures.rank([0.9, None, 0.5, 0.1], [1, 9, 2, 3]) == pytest.approx(1.0)
    assert measures.rank([0.1, 0.5, 0.9], [1, 2, 3]) == pytest.approx(-1.0)
    assert measures.rank([None, None], [1, 2]) == measures.rank([0.5, 0.5], [1, 2]) == 0.0


def test_halvings_count_steps_to_nine_tenths_of_the_gain():
    slow, quick = [0.1, 0.2, 0.4, 0.47, 0.5], [0.3, 0.47, 0.5, 0.5, 0.5]
    assert halvings(slow, quick, 0.1, 0.5, 20) == pytest.approx(np.log2(4 / 2))
    assert halvings(slow, slow, 0.1, 0.5, 20) == 0.0
    assert halvings(slow, [0.0] * 5, 0.1, 0.5, 20) == pytest.approx(np.log2(4 / 6))
    assert halvings(slow, [0.47] * 5, 0.1, 0.5, 20) == pytest.approx(2.0)


def filled(path, accuracy, seeds=2, rows=200):
    """Results with these accuracies, barriers that grow with distance, and starts that are ahead."""
    results = Results.open(path, {})
    for arm, value in accuracy.items():
        for seed in range(seeds):
            right = np.zeros(rows)
            right[: round(value * rows)] = 1
            results.add(arm, seed, {measures.TEST: np.random.default_rng(seed).permutation(right)})
    names = [f"{i}-{j}" for i in (*RUN, ALONE) for j in (*RUN, ALONE) if i < j]
    heights = {name: abs(int(name[0]) - int(name[2])) + 9 * (str(ALONE) in name) for name in names}
    curves = {tuned(j): [0.2, 0.3, 0.5] for j in (4, 5)} | {moved(i, i + 1): [0.4, 0.5, 0.5, 0.5] for i in (3, 4)}
    for seed in range(seeds):
        results.note("barriers", {**results.notes.get("barriers", {}), str(seed): heights})
        results.note("curves", {**results.notes.get("curves", {}), str(seed): curves})
    return results


def test_the_arms_of_the_claim_say_what_was_put_in(tmp_path):
    results = filled(tmp_path, accuracies())
    measures.sum_up(results, 20)
    means = {arm: float(np.mean(runs[0][next(iter(runs[0]))])) for arm, runs in results.outcomes.items()}
    assert means["late neighbours, moved"] == pytest.approx(0.1 + 0.4 * 0.85)
    assert means["late neighbours, half the gain"] == pytest.approx(0.3)
    assert means["neighbours, where others are far"] == pytest.approx(0.1 + 0.4 * 0.85)
    # Targets 1 and 5 have sources at distance 3 and 4, targets 2 and 4 at distance 3.
    assert means["far, moved"] == pytest.approx(0.1 + 0.4 * np.mean([0.225, 0.225, 0.35, 0.35]), abs=1e-9)
    assert means["independent, moved"] == means["bases"] == pytest.approx(0.1)
    assert means["rank"] == pytest.approx(1.0)
    assert means["halvings of the steps"] == pytest.approx(np.log2(3))
    assert results.notes["note's rule"]["recycled minus tuned at once (expected at least 0)"] == pytest.approx(0.1)
    assert results.notes["note's rule"]["R by distance in the run (expected to fall)"]["4"] == pytest.approx(0.1)


def test_m1_to_m5_are_states_of_one_run_and_m6_is_not(folder, tmp_path):
    settings = REPRODUCTION.settings | TINY | {"data": str(folder)}
    found = bases(tmp_path, 0, settings)
    assert list(found) == [*RUN, ALONE]
    weights = {number: stored(path)["model.layers.0.mlp.up_proj.weight"] for number, path in found.items()}

    def far(i, j):
        return float((weights[i] - weights[j]).norm() / weights[i].norm())

    assert all(0 < far(i, i + 1) < 0.6 for i in RUN[:-1])
    assert all(far(i, ALONE) > 1 for i in RUN)
    assert not (tmp_path / "seed-0" / "run").exists()


def test_the_whole_path_runs_and_goes_on_where_it_stopped(folder, tiny_llama, tmp_path):
    for number in (*RUN, ALONE):
        place = tmp_path / "work" / "seed-0" / f"base-{number}"
        place.parent.mkdir(parents=True, exist_ok=True)
        made = nudged(tiny_llama, tmp_path / f"made-{number}", seed=number, size=0.05)
        with staged_folder(place) as staging:
            for path in made.iterdir():
                path.rename(staging / path.name)
    changes = TINY | {"data": str(folder)}
    report = frame.execute(REPRODUCTION, tmp_path / "work", changes)
    assert {part["name"] for part in report["parts"]} == {part.name for part in REPRODUCTION.parts}
    assert len(report["choices"]["barriers"]["0"]) == 17
    assert all(len(curve) in (2, 3) for curve in report["choices"]["curves"]["0"].values())
    assert not (tmp_path / "work" / "seed-0").exists()
    again = frame.execute(REPRODUCTION, tmp_path / "work", changes)
    assert again["parts"] == report["parts"]
