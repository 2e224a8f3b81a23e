"""The LEVI reproduction: what its data do and do not change, what it derives, how its arms are run."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest

from pairtune.analysis.predict import Reader, head_outputs
from pairtune.errors import InputError
from pairtune.pair import hub
from pairtune.reproductions import levi_arms, levi_cues, levi_far, levi_shift
from pairtune.reproductions.frame import Results
from pairtune.reproductions.levi import REPRODUCTION
from pairtune.reproductions.levi_arms import NO_SMALL, PROBE, SMALL, Bench
from pairtune.reproductions.sources import write_task

SETTINGS = {"seeds": 1, "train": 32, "validation": 8, "test": 8, "max_length": 24, "epochs": 2, "precision": "float32"}


@pytest.fixture(scope="session")
def reviews_folder(tmp_path_factory):
    """A data folder as the real one is, with words of the tiny tokenizer."""
    folder = tmp_path_factory.mktemp("data") / "amazon_domains"
    folder.mkdir()
    words = "the a cat dog house red blue big good bad old day night man woman book".split()
    generator = np.random.default_rng(0)
    for domain in levi_shift.DOMAINS:
        for part in ("train", "test"):
            rows = [{"text": " ".join(generator.choice(words, 12)), "label": i % 2} for i in range(40)]
            text = "\n".join(json.dumps(row) for row in rows)
            (folder / f"{domain}_{part}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return folder.parent


@pytest.fixture
def settings(reviews_folder, tiny_bert):
    return SETTINGS | {"data": str(reviews_folder), "base": str(tiny_bert)}


@pytest.fixture
def few_arms(monkeypatch):
    """One learning rate an arm, and the arms on which others stand."""
    arms = {name: (tuner, rates[:1]) for name, (tuner, rates) in levi_arms.ARMS.items()}
    monkeypatch.setattr(levi_arms, "ARMS", arms)
    run = (PROBE, SMALL, levi_cues.FULL, levi_cues.ON_TUNED)
    monkeypatch.setattr(levi_cues, "RUN", {levi_cues.WEAK: run, levi_cues.SAME: (PROBE,)})
    monkeypatch.setattr(levi_cues, "PRETRAINING", 24)
    monkeypatch.setattr(levi_cues, "BLOCKS", 2)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_renaming_permutes_words_of_like_frequency(share):
    counts = Counter({f"w{i}": 1000 - i for i in range(200)})
    names = levi_far.permutation(counts, share)
    assert len(names) == share * 200
    assert set(names) == set(names.values())
    assert all(word != name and abs(counts[word] - counts[name]) < levi_far.BLOCK for word, name in names.items())


def test_only_whole_words_are_renamed():
    names = {"good": "bad", "bad": "good"}
    assert (
        levi_far.translate("Good, bad; goodness mp3bad bad's <br/>", names) == "bad, good; goodness mp3bad good's <br/>"
    )


def test_a_renamed_text_is_the_same_text_under_other_ids(settings):
    splits = levi_shift.reviews(settings)
    renamed, covered = levi_far.rename(splits, 1.0, settings)
    tokenizer = hub.load_tokenizer(settings["base"])
    pairs = set()
    for split, rows in splits.items():
        for row, other in zip(rows, renamed[split], strict=True):
            assert row["label"] == other["label"]
            one, two = (tokenizer(r["text"])["input_ids"] for r in (row, other))
            pairs |= set(zip(one, two, strict=True))
    forward, backward = dict(pairs), {b: a for a, b in pairs}
    assert len(pairs) == len(forward) == len(backward)
    assert covered == 1
    assert sum(a != b for a, b in pairs) == 16


def test_planted_cues_agree_at_their_rates_and_one_is_exchanged_alone():
    rows = [{"text": f"text {i}", "label": i % 2} for i in range(4000)]
    found = levi_cues.planted(rows, (0.95, 0.5), seed=1)
    agree = [[row["text"].startswith(levi_cues.S1[row["label"]]) for row in found]]
    agree += [[row["text"].endswith(levi_cues.S2[row["label"]]) for row in found]]
    assert np.mean(agree, axis=1) == pytest.approx([0.95, 0.5], abs=0.02)
    other = levi_cues.planted(rows, (0.95, 0.5), seed=1, flips=(True, False))
    for row, changed in zip(found, other, strict=True):
        one, two = row["text"].split(". ", 1), changed["text"].split(". ", 1)
        assert {one[0] + ".", two[0] + "."} == set(levi_cues.S1)
        assert one[1] == two[1]


def test_gains_are_item_by_item_and_the_best_view_is_chosen_on_validation(tmp_path):
    shift, far = (Results.open(tmp_path / name, {}) for name in ("shift", "far"))
    generator = np.random.default_rng(0)
    outcome = {}
    for arm in (PROBE, SMALL, NO_SMALL, "LEVI"):
        for store, names in ((shift, [arm]), (far, [f"{arm}, p 0.5", f"{arm}, p 1"] if arm != SMALL else [])):
            for name in names:
                outcome[name] = {split: generator.integers(0, 2, 9) for split in ("test", *levi_shift.OOD)}
                store.add(name, 0, outcome[name])
    shift.note(f"validation accuracy, {SMALL}", {"0.001": 0.6, "0.01": 0.7})
    for store, suffix, value in ((shift, "", 0.8), (far, ", p 0.5", 0.7), (far, ", p 1", 0.65)):
        store.note(f"validation accuracy, {PROBE}{suffix}", {"0.001": value})
    levi_far.compare(far, {"seeds": 1}, shift)
    assert far.notes[levi_far.BEST_VIEW] == {"p 0": PROBE, "p 0.5": PROBE, "p 1": SMALL}
    gain = far.outcomes[f"gain over {levi_far.BEST_VIEW}, p 1"][0]
    for split, values in gain.items():
        assert values == list(outcome["LEVI, p 1"][split] - outcome[SMALL][split])
    wanted = {arm for part in levi_far.FAR.parts for arm in (part.method, part.baseline)}
    assert wanted <= set(far.outcomes)


def test_cached_activations_answer_as_the_base_does_and_are_shared(settings, tmp_path):
    folder = tmp_path / "reviews"
    write_task(folder, levi_shift.reviews(settings))
    bench = Bench(Results.open(tmp_path / "work", {}), levi_shift.load_task(folder), folder, settings["base"], settings)
    split = bench.task.split("ood/dvd")
    calls, counted = [], []
    for seed in range(2):
        pair = bench.tuned("LEVI", 1e-2, seed)
        plain = head_outputs(Reader(pair, bench.task, settings["max_length"]), split)
        installed = pair.top.installed
        compute = installed.features
        installed.features = lambda batch, compute=compute: calls.append(1) or compute(batch)
        assert bench.answers(pair, split) == pytest.approx(plain, abs=1e-5)
        counted.append(len(calls))
    assert counted[0] > 0
    assert counted[1] == counted[0]  # the second pair reads what the first one left


def test_the_two_cues_from_pretraining_to_outcomes(settings, few_arms, tmp_path):
    results = Results.open(tmp_path, settings)
    levi_cues.run(results, settings)
    weak = {
        f"{arm}, {levi_cues.WEAK}" for arm in (PROBE, SMALL, levi_cues.FULL, levi_cues.ON_TUNED, levi_arms.ENSEMBLE)
    }
    assert set(results.outcomes) == weak | {f"{PROBE}, {levi_cues.SAME}"}
    assert hub.load_config(tmp_path / "base").num_hidden_layers == 2
    for runs in results.outcomes.values():
        found = {split: np.array(values) for split, values in runs[0].items()}
        assert list(found) == ["ID", "random cues", "drop", "changed by s1", "changed by s2"]
        assert np.array_equal(found["drop"], found["ID"] - found["random cues"])
        assert all(len(values) == 8 for values in found.values())
    before = json.dumps(results.notes)
    levi_cues.run(results, settings)  # nothing is run twice
    assert json.dumps(results.notes) == before


def test_every_part_of_the_cues_names_arms_that_run():
    run = {f"{arm}, {condition}" for condition, arms in levi_cues.RUN.items() for arm in arms}
    run |= {f"{levi_arms.ENSEMBLE}, {condition}" for condition, arms in levi_cues.RUN.items() if levi_cues.FULL in arms}
    assert {arm for part in levi_cues.CUES.parts for arm in (part.method, part.baseline)} <= run
    assert not any(part.counts for part in levi_cues.CUES.parts if levi_cues.SAME in part.method)
    assert [one.name for one in REPRODUCTION.more] == ["far", "cues"]


def test_a_missing_data_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="--set data=FOLDER"):
        levi_shift.reviews(SETTINGS | {"data": str(tmp_path)})
