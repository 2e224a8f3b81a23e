"""Metrics of predictions, item by item where there is one so that two models are compared over the same items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pairtune.errors import InputError


def classification(log_probs: np.ndarray, truth: np.ndarray) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Accuracy, macro F1, negative log-likelihood (nats) and expected calibration error of class probabilities.

    Args:
        log_probs: [N, C] normalised log-probabilities.
        truth: [N] class indices.

    Returns: the metrics, and the per-item numbers of those that are means of items.
    """
    predicted = log_probs.argmax(axis=1)
    right = (predicted == truth).astype(float)
    nll = -log_probs[np.arange(len(truth)), truth]
    labels = np.unique(truth)
    metrics = {
        "accuracy": float(right.mean()),
        "macro_f1": _f1(truth, predicted, "macro", labels=labels),
        "nll": float(nll.mean()),
        "ece": calibration_error(np.exp(log_probs.max(axis=1)), right),
    }
    return metrics, {"accuracy": right, "nll": nll}


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error over equal-width bins (Guo et al. 2017, arXiv 1706.04599, equation 3)."""
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(right[which == b].mean() - confidence[which == b].mean()) * (which == b).mean()
        for b in range(bins)
        if (which == b).any()
    ]
    return float(sum(gaps))


def multilabel(probabilities: np.ndarray, truth: np.ndarray) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Micro and macro F1 at one half, and the share of items with every label right. Both arrays are [N, C]."""
    predicted = probabilities >= 0.5
    exact = (predicted == (truth >= 0.5)).all(axis=1).astype(float)
    metrics = {
        "micro_f1": _f1(truth >= 0.5, predicted, "micro"),
        "macro_f1": _f1(truth >= 0.5, predicted, "macro"),
        "exact_match": float(exact.mean()),
    }
    return metrics, {"exact_match": exact}


def _f1(truth: np.ndarray, predicted: np.ndarray, average: str, **keywords: Any) -> float:
    from sklearn import metrics

    score: Any = metrics.f1_score
    return float(score(truth, predicted, average=average, zero_division=0, **keywords))


def regression(predicted: np.ndarray, truth: np.ndarray) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Root mean squared error, mean absolute error and Pearson's r (NaN where either side is constant)."""
    squared = (predicted - truth) ** 2
    varied = len(truth) > 1 and predicted.std() > 0 and truth.std() > 0
    metrics = {
        "rmse": float(np.sqrt(squared.mean())),
        "mae": float(np.abs(predicted - truth).mean()),
        "pearson": float(np.corrcoef(predicted, truth)[0, 1]) if varied else float("nan"),
    }
    return metrics, {"squared_error": squared, "absolute_error": np.abs(predicted - truth)}


def tokens(nll: np.ndarray, counts: np.ndarray) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Loss per token (nats) and perplexity from the items' summed losses [N] and numbers of tokens [N]."""
    loss = float(nll.sum() / max(counts.sum(), 1))
    return {"loss": loss, "perplexity": float(np.exp(min(loss, 700.0)))}, {"nll": nll / np.maximum(counts, 1)}


def texts(predicted: Sequence[str], truth: Sequence[str]) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Exact match, ROUGE-L (rouge-score) and chrF (sacrebleu) of generated texts, all in 0 … 1."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import CHRF  # type: ignore[attr-defined]

    if len(predicted) != len(truth):
        raise InputError(f"{len(predicted)} generated texts for {len(truth)} references")
    scorer, chrf = RougeScorer(["rougeL"]), CHRF()
    exact = np.array([float(p.strip() == t.strip()) for p, t in zip(predicted, truth, strict=True)])
    rouge = np.array([scorer.score(t, p)["rougeL"].fmeasure for p, t in zip(predicted, truth, strict=True)])
    metrics = {
        "exact_match": float(exact.mean()),
        "rouge_l": float(rouge.mean()),
        "chrf": chrf.corpus_score(list(predicted), [list(truth)]).score / 100,
    }
    return metrics, {"exact_match": exact, "rouge_l": rouge}
