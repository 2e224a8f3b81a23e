"""Metrics against direct evaluation, and the paired comparison."""

import numpy as np
import pytest

from pairtune.analysis import metrics
from pairtune.pair.paired import compare


def test_classification_against_hand_counts():
    log_probs = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]))
    truth = np.array([0, 1, 1, 2])
    found, items = metrics.classification(log_probs, truth)
    assert found["accuracy"] == 0.75
    assert found["nll"] == pytest.approx(-np.log([0.7, 0.8, 0.3, 0.6]).mean())
    # Classes 0: precision 1/2, recall 1; 1: precision 1, recall 1/2; 2: both 1.
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert items["accuracy"].tolist() == [1, 1, 0, 1]


def test_calibration_error_is_zero_when_confidence_equals_frequency():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.3, 1, 20000)
    right = (generator.random(20000) < confidence).astype(float)
    assert metrics.calibration_error(confidence, right) < 0.02
    assert metrics.calibration_error(np.full(100, 0.9), np.zeros(100)) == pytest.approx(0.9)
    assert metrics.calibration_error(np.ones(10), np.ones(10)) == 0


def test_regression_and_tokens_and_multilabel():
    found, _ = metrics.regression(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0]))
    assert found["rmse"] == pytest.approx(np.sqrt(1 / 3))
    assert np.isnan(metrics.regression(np.ones(3), np.arange(3.0))[0]["pearson"])
    assert metrics.tokens(np.array([2.0, 4.0]), np.array([1, 2]))[0]["loss"] == pytest.approx(2.0)
    found, _ = metrics.multilabel(np.array([[0.9, 0.1], [0.6, 0.7]]), np.array([[1, 0], [0, 1]]))
    assert found["exact_match"] == 0.5
    assert found["micro_f1"] == pytest.approx(0.8)


def test_texts_through_the_libraries():
    found, items = metrics.texts(["the cat sat", "a dog"], ["the cat sat", "one bird"])
    assert found["exact_match"] == 0.5
    assert items["rouge_l"].tolist() == [1.0, 0.0]
    assert 0.5 < found["chrf"] < 1


def test_the_paired_interval_and_the_flips():
    before = np.array([1, 0, 0, 1, 0] * 40, dtype=float)
    after = np.array([1, 1, 0, 0, 1] * 40, dtype=float)
    found = compare(before, after)
    assert found.mean == pytest.approx(0.2)
    assert found.low < 0.2 < found.high
    assert found.p_value is not None
    assert found.p_value < 0.01
    assert (len(found.fixed or []), len(found.broken or [])) == (80, 40)
    assert compare(before, before).p_value == 1.0
    assert compare(before * 0.5, after).p_value is None
