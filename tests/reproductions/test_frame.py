"""The statistics and the verdicts that every reproduction shares."""

import numpy as np
import pytest

from pairtune.errors import InputError
from pairtune.reproductions import frame
from pairtune.reproductions.frame import Part, Reproduction


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
