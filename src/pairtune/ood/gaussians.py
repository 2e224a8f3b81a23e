"""Class means and covariances of a stream of feature vectors, in float64 and constant memory."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from pairtune import method
from pairtune.errors import InputError


class FeatureSettings(method.Settings):
    """Which vector of a text a detector reads."""

    layer: int = Field(-1, description="block whose output is read, from 1; −1 is the last")
    pooling: Literal["auto", "mean", "first", "last"] = Field(
        "auto", description="which tokens make the vector; auto: mean on encoders, the last on decoder-only models"
    )


class Moments:
    """Sums of a stream, taken about its first batch's mean so that nothing cancels."""

    def __init__(self) -> None:
        self.sums: dict[int, Tensor] = {}
        self.counts: dict[int, int] = {}
        self.shift = self.products = torch.zeros(0, dtype=torch.float64)

    def add(self, features: Tensor, classes: Tensor) -> None:
        """Add [B, d] vectors with their class indices [B]; without classes, all are −1 and so of one."""
        features = features.double().cpu()
        if not self.counts:
            self.shift = features.mean(0)
            self.products = features.new_zeros(features.shape[1], features.shape[1])
        centred = features - self.shift
        self.products = self.products + centred.T @ centred
        for one in classes.unique().tolist():
            rows = centred[(classes == one).cpu()]
            self.sums[one] = self.sums.get(one, torch.zeros_like(self.shift)) + rows.sum(0)
            self.counts[one] = self.counts.get(one, 0) + len(rows)

    @property
    def count(self) -> int:
        """How many vectors were added."""
        return sum(self.counts.values())

    def means(self) -> Tensor:
        """[C, d] of the classes that occurred."""
        return torch.stack([self.shift + self.sums[one] / self.counts[one] for one in sorted(self.sums)])

    def mean(self) -> Tensor:
        """[d] of all vectors."""
        return self.shift + self._offset()

    def within(self) -> Tensor:
        """[d, d] covariance about the class means, divided by N."""
        outer = torch.zeros_like(self.products)
        for one, total in self.sums.items():
            outer += torch.outer(total, total) / self.counts[one]
        return (self.products - outer) / self.count

    def total(self) -> Tensor:
        """[d, d] covariance about the mean of all, divided by N."""
        return self.products / self.count - torch.outer(self._offset(), self._offset())

    def _offset(self) -> Tensor:
        return torch.stack(list(self.sums.values())).sum(0) / self.count


def whitener(covariance: Tensor, ridge: float) -> Tensor:
    """[d, d] matrix W such that |(x − μ) W|² is the squared Mahalanobis distance.

    `ridge` times the mean variance is added to the diagonal. Raises `InputError` where all vectors are equal.
    """
    scale = covariance.diagonal().mean()
    if not float(scale) > 0:
        raise InputError("the training data have equal features, so that no distance can be measured in them")
    values, vectors = torch.linalg.eigh(covariance + ridge * scale * torch.eye(len(covariance), dtype=torch.float64))
    return vectors * values.clamp(min=ridge * float(scale)).rsqrt()


def squared_distances(features: Tensor, means: Tensor, white: Tensor) -> Tensor:
    """[B, C] squared Mahalanobis distances, in float64."""
    own = features.double() @ white
    centres = means @ white
    return torch.cdist(own, centres, compute_mode="donot_use_mm_for_euclid_dist") ** 2
