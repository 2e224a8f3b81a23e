"""Score an input by what of its features the training data do not span, weighed against its logits (ViM).

"ViM: Out-Of-Distribution with Virtual-logit Matching", arXiv 2203.10807: the residual outside of the features'
principal space becomes the logit of a virtual class, scaled to the size of real logits.

    S(x) = α |R ᵀ(f − o)| − log Σ_k exp(z_k)
    o = −W⁺ b;   R: [d, d − D] the eigenvectors of the smallest eigenvalues of Σ_i (f_i − o)(f_i − o)ᵀ
    α = Σ_i max_k z_k(f_i) / Σ_i |Rᵀ(f_i − o)|

f: what enters the head's last linear layer [d], with weight W [C, d] and bias b [C]; z = W f + b. So it needs a head
that ends in one linear layer. All training vectors are held while fitting.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from pairtune import method
from pairtune.errors import InputError, MissingView
from pairtune.ood import Detector, evidence
from pairtune.pair.pair import evaluating

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair


class ViM(Detector):
    """Virtual-logit matching."""

    needs: ClassVar[frozenset[str]] = frozenset({"classes", "linear head"})

    class Settings(method.Settings):
        dimension: int | None = Field(
            None, ge=1, description="D of the principal space; by default the paper's: 1000, 512 or d/2 by the width d"
        )

    settings: ViM.Settings

    def must_fit(self, pair: Pair) -> bool:
        return True

    def fit(self, pair: Pair, batches: Iterable[dict[str, Any]]) -> None:
        found, head = [], None
        for batch in batches:
            features, head = _penultimate(pair, batch)
            found.append(features.cpu().double())
        if head is None:
            raise InputError("vim: there are no training rows")
        features = torch.cat(found)
        weight = head.weight.detach().double().cpu()
        bias = head.bias.detach().double().cpu() if head.bias is not None else weight.new_zeros(len(weight))
        origin = -torch.linalg.pinv(weight) @ bias
        centred = features - origin
        size = self._dimension(features.shape[1])
        residual = torch.linalg.eigh(centred.T @ centred / len(centred)).eigenvectors[:, : features.shape[1] - size]
        alpha = (features @ weight.T + bias).amax(-1).sum() / (centred @ residual).norm(dim=-1).sum()
        self.fitted = {"origin": origin, "residual": residual.contiguous(), "alpha": alpha[None]}

    def score(self, pair: Pair, batch: dict[str, Any]) -> Tensor:
        features = _penultimate(pair, batch)[0].double()
        origin, residual, alpha = (self.fitted[n].to(features.device) for n in ("origin", "residual", "alpha"))
        virtual = alpha * ((features - origin) @ residual).norm(dim=-1)
        return virtual - evidence.logits(pair, batch).double().logsumexp(-1)

    def _dimension(self, width: int) -> int:
        given = self.settings.dimension
        if given is not None and given >= width:
            raise InputError(f"vim: dimension {given} leaves nothing of the features' {width} dimensions; lower it")
        return given or (1000 if width >= 2048 else 512 if width >= 768 else width // 2)


def _penultimate(pair: Pair, batch: dict[str, Any]) -> tuple[Tensor, nn.Linear]:
    """[B, d] what entered the linear layer whose output are the logits, and that layer."""
    if "penultimate" in batch:
        return batch["penultimate"]
    seen: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def see(layer: Any, given: Any, out: Any) -> None:
        seen.append((layer, given[0], out))

    handles = [module.register_forward_hook(see) for module in pair.model.modules() if isinstance(module, nn.Linear)]
    try:
        with evaluating(pair.model):
            made = pair.forward(batch).logits
    finally:
        for handle in handles:
            handle.remove()
    # By value: what adapters add behind a layer would make it another function of its input.
    same = [
        (given, layer) for layer, given, out in seen if made is not None and out.shape == made.shape and out.equal(made)
    ]
    if not same:
        raise MissingView("vim needs a head that ends in one linear layer; mahalanobis and knn need none")
    assert made is not None
    batch["class_logits"] = made.float()
    batch["penultimate"] = (same[-1][0].float(), same[-1][1])
    return batch["penultimate"]
