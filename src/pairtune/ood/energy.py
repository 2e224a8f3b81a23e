"""Score an input by the free energy of the variant's class logits.

"Energy-based Out-of-distribution Detection", arXiv 2010.03759: the sum over classes of exp(logit) is an unnormalised
density of the input, which softmax divides away.

    S(x) = −T log Σ_k exp(z_k / T)

z: logits [C] of the head; on a language model, log p(label | text), so that at T = 1 the score is −log of the
probability that any of the task's labels follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from pairtune import method
from pairtune.ood import Detector, evidence

if TYPE_CHECKING:
    from torch import Tensor

    from pairtune.pair.pair import Pair


class Energy(Detector):
    """Free energy of the class logits."""

    needs: ClassVar[frozenset[str]] = frozenset({"classes"})

    class Settings(method.Settings):
        temperature: float = Field(1.0, gt=0, description="T, by which the logits are divided")

    settings: Energy.Settings

    def score(self, pair: Pair, batch: dict[str, Any]) -> Tensor:
        temperature = self.settings.temperature
        return -temperature * (evidence.logits(pair, batch) / temperature).logsumexp(-1)
