"""The statistics and the verdicts that every reproduction shares."""

import dataclasses
import shutil

import numpy as np
import pytest

from pairtune.errors import InputError
from pairtune.reproductions import frame, pages
from pairtune.reproductions.frame import Experiment, Part, Reproduction


def outcomes(rate, seeds=5, items=400, seed=0):
    generator = np.random.default_rng(seed)
    return (generator.random((seeds, items)) < rate).astype(float)


def test_the_interval_covers_the_truth_about_nine_times_in_ten():
    covered = 0
    for trial in range(60):
        one, two = outcomes(0.8, items=150, seed=2 * trial), outcomes(0.7, items=150, seed=2 * trial + 1)
        _, low, high = frame.difference(one, two, seed=trial)
        covered += low <= 0.1 <= high
    assert covered >= 48


def test_pairing_removes_what_both_arms_share():
    hard = np.random.default_rng(0).random(400)
    method, baseline = (np.tile((hard < rate).astype(float), (5, 1)) for rate in (0.75, 0.70))
    mean, low, _ = frame.difference(method, baseline)
    assert low > 0
    assert mean == pytest.approx(0.05, abs=0.02)
    _, loose, _ = frame.difference(method, baseline[:, ::-1])
    assert loose < low


@pytest.mark.parametrize(
    ("low", "high", "worth", "verdict"),
    [
        (0.01, 0.03, 0.0, "holds"),
        (-0.03, -0.01, 0.0, "does not hold"),
        (-0.01, 0.004, 0.01, "does not hold"),
        (-0.01, 0.03, 0.01, "undecided"),
        (-0.01, 0.004, 0.0, "undecided"),
    ],
)
def test_the_verdict_follows_the_interval(low, high, worth, verdict):
    assert frame.judge(low, high, worth) == verdict


def test_a_claim_of_several_parts():
    assert frame.overall(["holds", "holds"]) == "holds"
    assert frame.overall(["holds", "undecided"]) == "holds in part"
    assert frame.overall(["undecided", "does not hold"]) == "undecided"


def reproduction(runs):
    def run(results, settings):
        for seed in range(3):
            for arm, rate in (("ours", 0.9), ("theirs", 0.5)):
                if results.missing(arm, seed):
                    runs.append((arm, seed))
                    if len(runs) == settings["stop"]:
                        raise KeyboardInterrupt
                    results.add(arm, seed, {"ood": outcomes(rate, 1, 100, seed)[0]})

    part = Part("better", "ours", "theirs", ("ood",))
    return Reproduction("x", "a paper", "ours is better", "tuners/x", "tune", (part,), run, {"stop": -1})


def test_a_stopped_run_continues_and_other_settings_are_refused(tmp_path):
    runs = []
    with pytest.raises(KeyboardInterrupt):
        frame.execute(reproduction(runs), tmp_path, {"stop": 4})
    found = frame.execute(reproduction(runs), tmp_path, {"stop": 4}) if len(runs) < 4 else None
    assert found is None
    runs.clear()
    found = frame.execute(reproduction(runs), tmp_path, {"stop": 4})
    assert len(runs) == 3
    assert found["verdict"] == "holds"
    assert found["seeds"] == [0, 1, 2]
    assert found["parts"][0]["interval"][0] > 0
    with pytest.raises(InputError, match="other settings"):
        frame.execute(reproduction(runs), tmp_path, {"stop": 5})
    with pytest.raises(InputError, match="stop"):
        frame.execute(reproduction(runs), tmp_path, {"stp": 5})


def further(settings, counts=True):
    """A reproduction whose second experiment finds the opposite of the first."""

    def run(results, settings, first):
        for seed in range(3):
            theirs = first.outcomes["theirs"][seed]["ood"]
            results.add("ours, far", seed, {"far": np.multiply(theirs, settings["scale"])})
            results.add("theirs, far", seed, {"far": theirs})

    part = Part("better far away", "ours, far", "theirs, far", ("far",), worth=0.01, counts=counts)
    second = Experiment("far", "Far away.", (part,), run, settings)
    return dataclasses.replace(reproduction([]), more=(second,), reading="why")


def test_a_further_experiment_has_its_own_settings_and_counts_in_the_verdict(tmp_path):
    found = frame.execute(further({"scale": 0}), tmp_path / "a", {})
    assert found["verdict"] == "holds in part"
    assert found["more"]["far"]["parts"][0]["verdict"] == "does not hold"
    assert found["more"]["far"]["settings"] == {"stop": -1, "scale": 0}
    assert set(found["numbers"]) == {"ours", "theirs"}
    assert "better far away" not in found["rule"]
    assert "ours, far − theirs, far" in found["rule"]
    assert frame.execute(further({"scale": 0}, counts=False), tmp_path / "b", {})["verdict"] == "holds"


def test_results_of_a_further_experiment_can_be_copied_beside_those_of_the_first(tmp_path):
    frame.execute(further({"scale": 0}), tmp_path / "a", {})
    frame.execute(reproduction([]), tmp_path / "b", {})
    shutil.copytree(tmp_path / "a" / "far", tmp_path / "b" / "far")
    assert frame.execute(further({"scale": 0}), tmp_path / "b", {})["verdict"] == "holds in part"
    with pytest.raises(InputError, match="far: holds results of other settings"):
        frame.execute(further({"scale": 1}), tmp_path / "b", {})


def test_the_page_shows_every_experiment(tmp_path):
    pages.publish(frame.execute(further({"scale": 0}, counts=False), tmp_path / "work", {}), "x", tmp_path)
    page = (tmp_path / "reproductions.md").read_text()
    first, second = page.split("### x: far")
    assert "| ours |" in first
    assert "| ours, far |" in second
    assert "does not hold (not counted) |" in second
    assert second.rstrip().endswith("Reading: why")


def test_arms_may_have_outcomes_on_splits_of_their_own(tmp_path):
    found = frame.execute(reproduction([]), tmp_path / "work", {})
    found["numbers"]["rank"] = {"seeds": {"mean": 0.5, "sd": 0.0}}
    assert pages.splits_of(found)[-1] == "seeds"
    pages.publish(found, "x", tmp_path)
    line = next(line for line in (tmp_path / "reproductions.md").read_text().splitlines() if line.startswith("| rank"))
    assert line.endswith("|  | 0.5000 ± 0.0000 |")


@pytest.mark.parametrize(("margin", "verdict"), [(0.0, "does not hold"), (0.05, "does not hold"), (0.2, "holds")])
def test_a_margin_says_how_far_a_method_may_fall_short(tmp_path, margin, verdict):
    def run(results, settings):
        for seed in range(3):
            results.add("ours", seed, {"test": [0.8] * 10})
            results.add("theirs", seed, {"test": [0.9] * 10})

    part = Part("as good", "ours", "theirs", ("test",), margin=margin)
    found = frame.execute(dataclasses.replace(reproduction([]), parts=(part,), run=run), tmp_path, {})
    assert found["verdict"] == verdict
    assert not margin or f"lies above -{margin:g}" in found["rule"]
