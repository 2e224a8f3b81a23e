"""A linear classifier on frozen features: the base's side of a comparison where the head is new.

A new head belongs to the delta, so that the base has none, and comparing with a random one would say nothing. What the
base's features already allow is what a linear model on them reaches.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from pairtune.errors import InputError

NAME = "base + linear probe"
STRENGTHS = (0.1, 1.0, 10.0)  # inverse regularisation that is tried
LEAST = -30.0  # log-probability of a class that no training row has


class LinearProbe:
    """Multinomial logistic regression on standardised features; the strength is chosen by 3-fold cross-validation.

    Args:
        features: [N, d] of training rows.
        targets: [N] class indices, at least two different ones.
        classes: how many classes there are.

    Raises `InputError` where the rows have fewer than two classes.
    """

    def __init__(self, features: np.ndarray, targets: np.ndarray, classes: int):
        from sklearn.linear_model import LogisticRegressionCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        counts = np.unique(targets, return_counts=True)[1]
        if len(counts) < 2:
            raise InputError("a linear probe needs training rows of at least two classes")
        make: Any = LogisticRegressionCV
        model = make(
            Cs=list(STRENGTHS),
            l1_ratios=(0,),
            cv=min(3, max(2, int(counts.min()))),
            scoring="neg_log_loss",
            max_iter=500,
            use_legacy_attributes=False,
        )
        pipeline = make_pipeline(StandardScaler(), model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline.fit(features, targets)
        scaler: Any = pipeline[0]
        fitted: Any = pipeline[-1]
        self.classes = classes
        self.known = fitted.classes_
        coefficients, offsets = fitted.coef_, fitted.intercept_
        if len(self.known) == 2:  # scikit-learn keeps one row then; the other's is its negative
            coefficients = np.concatenate([-coefficients, coefficients]) / 2
            offsets = np.concatenate([-offsets, offsets]) / 2
        weight = coefficients / scaler.scale_
        self.state = {"weight": weight, "bias": offsets - weight @ scaler.mean_, "known": self.known}

    def log_probs(self, features: np.ndarray) -> np.ndarray:
        """[N, C] log-probabilities."""
        return log_probs(features, self.state, self.classes)


def log_probs(features: np.ndarray, state: Mapping[str, np.ndarray], classes: int) -> np.ndarray:
    """[N, C] log-probabilities that a fitted probe gives features [N, d], from its `state` as it is kept in a file."""
    logits = features @ state["weight"].T + state["bias"]
    top = logits.max(axis=1, keepdims=True)
    found = np.full((len(features), classes), LEAST)
    found[:, state["known"]] = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return found
