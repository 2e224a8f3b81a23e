"""The statistics of several seeds against direct evaluation, and the rule of failed runs."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from pairtune.training.stability import SeedRun, expected_best, stability, text_free, why_failed


@pytest.mark.parametrize("rising", [True, False])
def test_the_expected_best_of_n_is_the_mean_over_all_draws_with_replacement(rising):
    values = np.array([0.3, 0.9, 0.5, 0.5])
    for n in (1, 2, 3):
        best = max if rising else min
        direct = np.mean([best(draw) for draw in itertools.product(values, repeat=n)])
        assert expected_best(values, n, rising) == pytest.approx(direct)


def test_the_summary_is_over_the_runs_that_have_a_value():
    values = [0.8, 0.6, 0.7]
    runs = [SeedRun(i, value, {}) for i, value in enumerate(values)]
    runs.append(SeedRun(3, None, {}, failed="the loss became nan"))
    runs[1] = SeedRun(1, 0.6, {}, failed="not better")
    found = stability(runs, "accuracy", True, baseline=0.5, asked=6)
    assert (found.mean, found.low, found.high) == (pytest.approx(0.7), 0.6, 0.8)
    assert found.std == pytest.approx(0.1)
    assert found.mean_interval == pytest.approx(stats.t.interval(0.95, 2, 0.7, 0.1 / math.sqrt(3)))
    # χ² with 2 degrees of freedom has the quantile −2 log(1 − p).
    assert found.std_interval == pytest.approx([0.1 * math.sqrt(2 / (-2 * math.log(p))) for p in (0.025, 0.975)])
    assert (found.best, found.failed, found.asked) == (0, 2, 6)
    assert found.expected_best[1] == pytest.approx(found.mean)
    assert stability(runs, "loss", False).best == 1
    one = stability(runs[:1], "accuracy", True)
    assert (one.mean, one.std, one.mean_interval) == (0.8, None, None)
    none = stability(runs[3:], "accuracy", True)
    assert (none.mean, none.best, none.expected_best) == (None, None, {})


def test_the_intervals_cover_as_often_as_they_say():
    generator = np.random.default_rng(0)
    inside = np.zeros(2)
    for _ in range(400):
        runs = [SeedRun(i, float(v), {}) for i, v in enumerate(generator.normal(3.0, 0.5, 5))]
        found = stability(runs, "loss", False)
        inside += [
            found.mean_interval[0] <= 3.0 <= found.mean_interval[1],
            found.std_interval[0] <= 0.5 <= found.std_interval[1],
        ]
    assert all(0.92 <= share <= 0.98 for share in inside / 400)


def test_what_answering_without_the_text_gives():
    train, held = [0, 0, 0, 1], [0, 1, 1, 2]
    assert text_free("accuracy", "classification", train, held) == 0.25
    frequencies = [0.75, 0.25, 0.25, 0.125]  # the class that training lacks is given half a row
    assert text_free("loss", "classification", train, held) == pytest.approx(-np.mean(np.log(frequencies)))
    assert text_free("loss", "regression", [1.0, 3.0], [2.0, 4.0]) == 2.0
    assert text_free("absolute_error", "regression", [1.0, 3.0], [2.0, 4.0]) == 1.0
    assert text_free("f1", "classification", train, held) is None
    assert text_free("loss", "lm", train, held) is None


@pytest.mark.parametrize(
    ("value", "rising", "baseline", "losses", "kind", "why"),
    [
        (0.6, True, 0.6, (1.0, 0.1), "classification", "most frequent label"),
        (0.61, True, 0.6, (1.0, 0.1), "classification", None),
        (2.0, False, 2.0, (1.0, 0.1), "regression", "the mean alone"),
        (0.9, True, 0.6, (1.0, 0.95), "classification", "not below 0.9"),
        (0.9, True, 0.6, (1.0, 0.9), "classification", None),
        (0.9, True, None, None, "multilabel", None),
        (2.9, False, None, (3.0, 2.95), "lm", None),
    ],
)
def test_a_failed_run(value, rising, baseline, losses, kind, why):
    found = why_failed(value, rising, baseline, losses, kind)
    assert (found is None) if why is None else (why in found)
