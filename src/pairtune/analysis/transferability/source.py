"""Scores from what a base's own classifier says about the rows. [N, Z] probabilities, [N] classes; higher is better."""

from __future__ import annotations

import numpy as np

from pairtune.analysis.transferability.scatter import principal

COMPONENTS_A_CLASS = 5
ENERGY = 0.8  # share of the variance that the principal components of N-LEEP keep


def leep(source: np.ndarray, classes: np.ndarray) -> float:
    """mean ln Σ_z P(y | z) θ(x)_z, P the empirical conditional of the classes given the source's.

    Nguyen et al., "LEEP", arXiv 2002.12462 (the logarithm is theirs; some implementations leave it out).
    """
    wanted = classes[:, None] == np.unique(classes)[None]
    joint = wanted.T.astype(float) @ source / len(source)  # [C, Z]
    conditional = joint / np.maximum(joint.sum(0, keepdims=True), 1e-12)
    return float(np.log(np.maximum((source @ conditional.T)[wanted], 1e-12)).mean())


def nce(source: np.ndarray, classes: np.ndarray) -> float:
    """−H(Y | Z), Z the class that the source finds most probable. Tran et al., arXiv 1908.08142."""
    said = source.argmax(1)
    total = 0.0
    for one in np.unique(said):
        shares = np.unique(classes[said == one], return_counts=True)[1] / (said == one).sum()
        total += (said == one).mean() * float((shares * np.log(shares)).sum())
    return total


def n_leep(features: np.ndarray, classes: np.ndarray) -> float:
    """LEEP with the parts of a mixture of Gaussians (five a class) in the place of source classes.

    Li et al., "Ranking Neural Checkpoints", arXiv 2011.11200; in the principal components with four fifths of the
    variance. For bases without a classifier.
    """
    from sklearn.mixture import GaussianMixture

    centred = features - features.mean(0)
    squares = np.linalg.svd(centred, compute_uv=False) ** 2
    kept = int(np.searchsorted(np.cumsum(squares) / squares.sum(), ENERGY)) + 1
    reduced = principal(features, kept)
    different = len(np.unique(reduced.round(9), axis=0))
    parts = max(1, min(COMPONENTS_A_CLASS * len(np.unique(classes)), different // 2))
    mixture = GaussianMixture(parts, covariance_type="diag", random_state=0, reg_covar=1e-4).fit(reduced)
    return leep(mixture.predict_proba(reduced), classes)
