"""How well a linear model of the features says the targets: on held-out rows, or all its weights together (LogME).

LogME: how probable the targets are under such a model, its weights integrated out. You et al., "LogME: Practical
Assessment of Pre-trained Models for Transfer Learning", arXiv 2102.11005, with the faster fixed point of the follow-up
(arXiv 2110.10545). For each column y of the targets, weights with the prior N(0, 1/α) and noise of precision β, both at
their maximum:

    ln p(y | F) = D/2 ln α + N/2 ln β − ½ Σ ln(α + β s²) − β/2 |F m − y|² − α/2 |m|² − N/2 ln 2π

s: singular values of F. The score is the mean over columns, divided by N; higher is better.
"""

from __future__ import annotations

import math
import warnings

import numpy as np

from pairtune.errors import DataError

ROUNDS, ENOUGH = 11, 0.01  # at most so many, until α/β changes by less than that share
TINY = 1e-300
FOLDS = 3


def linear_probe(features: np.ndarray, classes: np.ndarray | None, numbers: np.ndarray | None) -> float:
    """Mean over three folds of the accuracy (of numbers: R²) on the fold that the model was not fitted on.

    Args:
        features: [N, D], standardised here. classes: [N], or numbers: [N, K].
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegression(C=0.1, max_iter=300) if classes is not None else Ridge(10.0)
    folds = (StratifiedKFold if classes is not None else KFold)(FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes with fewer rows than folds
        scores = cross_val_score(
            make_pipeline(StandardScaler(), model), features, classes if classes is not None else numbers, cv=folds
        )
    return float(scores.mean())


def logme(features: np.ndarray, columns: np.ndarray) -> float:
    """The score of [N, D] features for [N, C] targets. Raises `DataError` where every column is constant."""
    left, singular, _ = np.linalg.svd(features.astype(float), full_matrices=False)
    varied = [column for column in columns.T if np.ptp(column) > 0]
    if not varied:
        raise DataError("the targets are all equal, so that no feature can tell them apart")
    return float(np.mean([_evidence(left, singular, column, features.shape[1]) for column in varied]))


def _evidence(left: np.ndarray, singular: np.ndarray, target: np.ndarray, width: int) -> float:
    """ln p(y | F) / N."""
    count = len(target)
    inside = left.T @ target
    outside = max(0.0, float(target @ target - inside @ inside))  # what no weights reach
    squares = singular**2
    alpha = beta = 1.0
    for _ in range(ROUNDS):
        ratio = alpha / beta
        effective = float((squares / (squares + ratio)).sum())
        weights = float(((singular * inside / (squares + ratio)) ** 2).sum())
        missed = outside + float(((inside * ratio / (squares + ratio)) ** 2).sum())
        alpha, beta = effective / max(weights, TINY), (count - effective) / max(missed, TINY)
        if abs(alpha / beta - ratio) <= ENOUGH * ratio:
            break
    ratio = alpha / beta
    weights = float(((singular * inside / (squares + ratio)) ** 2).sum())
    missed = outside + float(((inside * ratio / (squares + ratio)) ** 2).sum())
    curvature = float(np.log(alpha + beta * squares).sum()) + (width - len(squares)) * math.log(alpha)
    total = width * math.log(alpha) + count * math.log(beta) - curvature - beta * missed - alpha * weights
    return (total - count * math.log(2 * math.pi)) / 2 / count
