"""Separation figures against scikit-learn, on ranks, and with one sign."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from pairtune.errors import InputError
from pairtune.pair.separation import auroc, fpr_at_95, separation


@pytest.fixture
def scores():
    generator = np.random.default_rng(0)
    return generator.normal(0, 1, 300).round(1), generator.normal(1, 1, 200).round(1)


def test_auroc_equals_sklearn_with_ties_and_under_any_monotone_shift(scores):
    inside, outside = scores
    truth = np.r_[np.zeros(300), np.ones(200)]
    assert auroc(inside, outside) == pytest.approx(roc_auc_score(truth, np.r_[inside, outside]), abs=1e-12)
    # A shift that would saturate a sigmoid must not move it.
    assert auroc(inside + 50, outside + 50) == auroc(inside, outside)
    assert auroc(outside, inside) == pytest.approx(1 - auroc(inside, outside))


def test_fpr95_equals_the_roc_curve(scores):
    inside, outside = scores
    fpr, tpr, _ = roc_curve(np.r_[np.zeros(300), np.ones(200)], np.r_[inside, outside], drop_intermediate=False)
    assert fpr_at_95(inside, outside) == pytest.approx(fpr[np.argmax(tpr >= 0.95)], abs=1e-12)


def test_intervals_hold_the_point_and_narrow_with_more_items(scores):
    inside, outside = scores
    few, many = separation(inside[:40], outside[:40], 200), separation(inside, outside, 200)
    assert few.auroc[1] <= few.auroc[0] <= few.auroc[2]
    assert many.auroc[2] - many.auroc[1] < few.auroc[2] - few.auroc[1]


def test_bad_scores_are_refused(scores):
    with pytest.raises(InputError, match="no out-of-distribution"):
        separation(scores[0], [])
    with pytest.raises(InputError, match="NaN"):
        separation([0.0, float("nan")], [1.0])
