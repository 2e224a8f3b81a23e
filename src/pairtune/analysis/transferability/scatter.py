"""Scores of how far classes stand apart in feature space. All: [N, D] features, [N] classes; higher is better."""

from __future__ import annotations

import numpy as np

COMPONENTS = 64  # principal components in which GBC fits its Gaussians
EPSILON = 1e-4  # squared distortion of TransRate's coding rate
FLOOR = 1e-6  # of a variance


def h_score(features: np.ndarray, classes: np.ndarray) -> float:
    """tr(cov(F)⁻¹ cov(E[F | y])), both shrunk as Ledoit and Wolf do.

    Bao et al. 2019; shrinkage after Ibrahim et al., arXiv 2110.06893: without it the score means nothing where the
    features are wider than the rows are many.
    """
    from sklearn.covariance import ledoit_wolf

    centred = features - features.mean(0)
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    means = np.zeros_like(centred)
    for one in np.unique(classes):
        means[classes == one] = centred[classes == one].mean(0)
    between = means.T @ means / len(means)
    return float((1 - shrinkage) * np.trace(np.linalg.solve(covariance, between)))


def transrate(features: np.ndarray, classes: np.ndarray) -> float:
    """R(F) − mean over classes of R(F_c), R(X) = ½ ln det(I + XᵀX / (n ε)): bits that knowing the class saves.

    Huang et al., "Frustratingly Easy Transferability Estimation", arXiv 2106.09362.
    """
    centred = features - features.mean(0)
    return _rate(centred) - float(np.mean([_rate(centred[classes == one]) for one in np.unique(classes)]))


def _rate(rows: np.ndarray) -> float:
    squares = np.linalg.svd(rows, compute_uv=False) ** 2
    return float(np.log1p(squares / (len(rows) * EPSILON)).sum() / 2)


def gbc(features: np.ndarray, classes: np.ndarray) -> float:
    """−Σ over pairs of classes of exp(−D_B), the Bhattacharyya distance of Gaussians with their own variances.

    Pándy et al., "Transferability Estimation using Bhattacharyya Class Separability", arXiv 2111.12780; in at most 64
    principal components. D_B = ⅛ (μ−μ')² / S + ½ ln(S / √(S_c S_c')), S the mean of both variances, summed over them.
    """
    reduced = principal(features, COMPONENTS)
    names = np.unique(classes)
    means = [reduced[classes == one].mean(0) for one in names]
    variances = [reduced[classes == one].var(0) + FLOOR for one in names]
    total = 0.0
    for i in range(len(names)):
        for j in range(i):
            both = (variances[i] + variances[j]) / 2
            apart = ((means[i] - means[j]) ** 2 / both).sum() / 8
            shape = np.log(both / np.sqrt(variances[i] * variances[j])).sum() / 2
            total += float(np.exp(-apart - shape))
    return -total


def lda(features: np.ndarray, classes: np.ndarray) -> float:
    """Mean probability that a linear discriminant, fitted on the rows, gives to the right class.

    One half of ETran (Gholami et al., arXiv 2308.02027) for classification; its covariance is shrunk.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(features, classes)
    given = model.predict_proba(features)
    return float(given[np.arange(len(classes)), np.searchsorted(model.classes_, classes)].mean())


def principal(features: np.ndarray, most: int) -> np.ndarray:
    """[N, k] the first principal components."""
    centred = features - features.mean(0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    kept = min(most, len(singular))
    return left[:, :kept] * singular[:kept]
