"""Scores of the features' own shape, and of how alike rows are; higher is better.

`concentration` and `kept` are two of the three parts of TEMPLATE ("Unified Transferability Metrics for Time Series
Foundation Models", NeurIPS 2025; its third looks at the trend of a time series). They need no targets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logsumexp
from scipy.stats import rankdata, spearmanr

from pairtune.analysis.transferability.scatter import principal

PARC_COMPONENTS = 32


def concentration(features: np.ndarray) -> float:
    """TEMPLATE's pattern learning: largest singular value over their sum. Not centred, as in the reference.

    It is at least 1 / min(N, D), so that wide features have lower values: compare within one pool alone.
    """
    singular = np.linalg.svd(features, compute_uv=False)
    return float(singular[0] / singular.sum())


def kept(first: np.ndarray, last: np.ndarray) -> float:
    """TEMPLATE's task adaptation: centred kernel alignment (RBF) of the first block's features and the last's."""
    one, other = (_centred_kernel(part) for part in (first, last))
    scale = np.linalg.norm(one) * np.linalg.norm(other)
    return float((one * other).sum() / scale) if scale else 0.0


def _centred_kernel(rows: np.ndarray) -> np.ndarray:
    """[N, N] exp(−d²/2σ²), σ² the median of the squared distances that are not zero, centred."""
    squares = _distances(rows)
    apart = squares[squares > 0]
    kernel = np.exp(-squares / (2 * np.median(apart))) if len(apart) else np.ones_like(squares)
    centred = kernel - kernel.mean(0, keepdims=True)
    return centred - centred.mean(1, keepdims=True)


def _distances(rows: np.ndarray) -> np.ndarray:
    norms = (rows**2).sum(1)
    return np.maximum(norms[:, None] + norms[None] - 2 * rows @ rows.T, 0.0)


def energy(features: np.ndarray) -> float:
    """Mean log Σ exp of a row's features: one half of ETran (Gholami et al., arXiv 2308.02027)."""
    return float(np.mean(logsumexp(features, axis=1)))


def regression_fit(features: np.ndarray, numbers: np.ndarray) -> float:
    """−mean squared error of the least-squares fit by the features' leading directions: ETran's half for regression.

    As many directions as hold four fifths of the variance, else any wide features would fit without an error.
    """
    centred, wanted = features - features.mean(0), numbers - numbers.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    count = int(np.searchsorted(np.cumsum(singular**2) / (singular**2).sum(), 0.8)) + 1
    basis = left[:, :count]
    return -float(((wanted - basis @ (basis.T @ wanted)) ** 2).mean())


def parc(features: np.ndarray, columns: np.ndarray) -> float:
    """100 × Spearman's correlation of how unlike rows are in features and in targets.

    Bolya et al., "Scalable Diverse Model Selection for Accessible Transfer Learning", arXiv 2111.06977: 1 − Pearson of
    standardised rows in 32 principal components, against the same of one-hot targets.
    """
    reduced = principal((features - features.mean(0)) / (features.std(0) + 1e-12), PARC_COMPONENTS)
    places = np.triu_indices(len(reduced), 1)
    one, other = ((1 - np.corrcoef(rows))[places] for rows in (reduced, _wide(columns)))
    found: Any = spearmanr(one, other)
    return 100 * float(found.statistic)


def _wide(columns: np.ndarray) -> np.ndarray:
    """One target column has no correlation of rows: its distances to quantiles take its place."""
    if columns.shape[1] > 1:
        return columns
    ranks = rankdata(columns[:, 0]) / len(columns)
    return np.exp(-8 * (ranks[:, None] - np.linspace(0, 1, 9)[None]) ** 2)
