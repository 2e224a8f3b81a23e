"""A threshold keeps its rate, its interval is what happens, and the card that holds it stays whole."""

import numpy as np
import pytest
from scipy.stats import beta
from tests.ood.pairs import FAR, causal, task

import pairtune
from pairtune.errors import FormatError, InputError
from pairtune.ood import calibration
from pairtune.ood.calibration import threshold_at
from pairtune.ood.scoring import Scorer
from pairtune.pair.card import Card
from pairtune.pair.complete import verify


def test_the_rate_that_results_has_the_distribution_that_is_reported():
    """Over many draws of n scores, the share of all scores above the threshold is Beta(n + 1 − k, k)."""
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(4000):
        value, expected, low, high = threshold_at(generator.uniform(size=99), 0.05)
        shares.append(1 - value)  # the share of uniform scores above it
    assert expected == pytest.approx(0.05)
    assert np.mean(shares) == pytest.approx(0.05, abs=0.001)
    assert np.mean([low <= share <= high for share in shares]) == pytest.approx(0.95, abs=0.01)
    assert (low, high) == pytest.approx(tuple(beta.ppf([0.025, 0.975], 5, 95)))


def test_the_expected_rate_is_never_above_the_one_asked_for():
    for count in (19, 20, 37, 100, 399):
        value, expected, _, _ = threshold_at(np.arange(count), 0.05)
        assert expected <= 0.05 + 1e-12
        assert (np.arange(count) > value).mean() <= 0.05


def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(InputError, match="at least 19 held-out ID inputs, found 18"):
        threshold_at(np.arange(18), 0.05)
    for rate in (0.0, 1.0, -1, 5):
        with pytest.raises(InputError, match="between 0 and 1"):
            threshold_at(np.arange(100), rate)
    with pytest.raises(InputError, match="1 of 3 scores are NaN"):
        threshold_at(np.array([1.0, float("nan"), 2.0]), 0.5)


@pytest.fixture
def saved(tiny_llama, tmp_path):
    import json

    folder = tmp_path / "task"
    folder.mkdir()
    for name in ("train", "validation", "test"):
        rows = [json.dumps({"text": row["text"], "label": row["label"]}) for row in task().splits["train"]]
        (folder / f"{name}.jsonl").write_text("\n".join(rows * 3))
    config = {"base": str(tiny_llama), "data": str(folder), "tuner": "lora", "out": str(tmp_path / "pair")}
    pairtune.tune(config | {"training": {"lr": 0.01, "epochs": 1}})
    return tmp_path / "pair", pairtune.Task.load(folder)


@pytest.mark.parametrize("name", ["log-ratio:token", "knn"])
def test_a_threshold_is_kept_and_found_again(saved, name):
    folder, found = saved
    pair = pairtune.Pair.load(folder)
    scorer = Scorer(pair, [name], settings={"knn": {"k": 3}} if name == "knn" else None)
    threshold = calibration.calibrate(scorer, found, 0.1)
    (folder / "README.md").write_text("edited by hand")
    calibration.store(folder, scorer, threshold)
    verify(folder)
    assert (folder / "README.md").read_text() == "edited by hand"
    again = pairtune.Pair.load(folder)
    assert calibration.required(again) == threshold
    other = calibration.calibrated(again, folder, threshold)
    assert np.allclose(other.table(FAR)[name], scorer.table(FAR)[name], atol=1e-5)
    assert (folder / calibration.STATE_FILE).exists() == (name == "knn")
    scorer = Scorer(again, ["length"])
    calibration.store(folder, scorer, calibration.calibrate(scorer, found, 0.1))
    verify(folder)
    assert calibration.required(pairtune.Pair.load(folder)).detector == "length"
    assert not (folder / calibration.STATE_FILE).exists(), "what the older detector had learnt is gone"


def test_a_threshold_that_does_not_fit_is_refused(saved):
    folder, found = saved
    pair = pairtune.Pair.load(folder)
    with pytest.raises(InputError, match="no threshold yet"):
        calibration.required(pair)
    scorer = Scorer(pair, ["mahalanobis"])
    threshold = calibration.calibrate(scorer, found, 0.1)
    calibration.store(folder, scorer, threshold)
    (folder / calibration.STATE_FILE).unlink()
    with pytest.raises(FormatError, match="is missing; calibrate again"):
        calibration.calibrated(pair, folder, threshold)
    with pair.off():
        parameter = pair.trainable()[0][1]
        parameter.data += 1
    with pytest.raises(InputError, match="made for another delta"):
        calibration.stored(pair)


def test_a_pair_without_a_card_cannot_keep_a_threshold(tiny_llama, tmp_path):
    scorer = Scorer(causal(tiny_llama), ["length"])
    threshold = calibration.calibrate(scorer, task("lm"), 0.5)
    with pytest.raises(InputError, match=r"no pair\.json"):
        calibration.store(tmp_path, scorer, threshold)


def test_a_crash_while_storing_leaves_the_old_card_or_the_new(saved, monkeypatch):
    import os

    from pairtune.pair import staging

    folder, found = saved
    pair = pairtune.Pair.load(folder)
    scorer = Scorer(pair, ["length"])
    threshold = calibration.calibrate(scorer, found, 0.1)
    child = os.fork()
    if child == 0:
        staging._put_in_place = lambda *_: os.kill(os.getpid(), 9)
        calibration.store(folder, scorer, threshold)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == 9
    verify(folder)
    assert Card.load(folder).threshold is None
    calibration.store(folder, scorer, threshold)
    assert calibration.required(pairtune.Pair.load(folder)).value == threshold.value
