"""A side network on a base in four bits against LoRA on the same: memory beyond the weights and time of a step.

Beyond the weights: gradients, AdamW's moments, and what a forward keeps for its backward. The vocabulary loss is
computed in slices in both arms. Goals: at most half the memory and at most 0.6 of the time. `--float` leaves the base
in float32. The model is a random Llama with the zoo's tokenizer.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch

from _harness import finish, interleave, ratio
from lora_training import prepare
from pairtune import registry
from pairtune.objectives.token_nll import next_tokens, summed_nll
from pairtune.pair.base import Base
from pairtune.training.memory import SavedBytes, readable

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("lora", {"r": 8}),
    "QST, adapters": ("qst", {"reduction": 16}),
    "QST, average pools": ("qst", {"reduction": 16, "down": "avg-pool"}),
    "ladder": ("ladder", {"reduction": 16}),
}


class Arm:
    """A tuner on a base of its own."""

    def __init__(self, folder: Path, tuner: str, settings: dict[str, Any], quantize: Any, ids: torch.Tensor):
        base = Base.load(folder / "base", device="cpu", quantize=quantize)
        base.model.config.use_cache = False
        torch.manual_seed(0)
        installed = registry.build("tuners", tuner, settings).install(base, base.model)
        self.model = installed.model.train()
        for outer in installed.frozen_modules():
            outer.eval()
        self.trained = [p for _, p in installed.trainable()]
        self.optimizer, self.ids = torch.optim.AdamW(self.trained, lr=1e-4), ids

    def loss(self) -> torch.Tensor:
        """The vocabulary loss of all tokens."""
        logits = self.model(input_ids=self.ids, attention_mask=torch.ones_like(self.ids)).logits
        return summed_nll(logits, next_tokens(self.ids))

    def memory(self) -> int:
        """Bytes beyond the weights."""
        with SavedBytes(self.model) as counted:
            self.loss()
        return counted.bytes + 3 * sum(p.numel() * p.element_size() for p in self.trained)

    def step(self) -> None:
        """One optimizer step."""
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["small", "gpt2"], default="small")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--float", action="store_true", help="a base in float32")
    arguments = parser.parse_args()
    logging.getLogger("pairtune").setLevel(logging.ERROR)
    ids = torch.randint(5, 4000, (arguments.rows, arguments.length), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), arguments.size)
        quantize = None if arguments.float else "4bit"
        arms = {label: Arm(Path(name), *arm, quantize, ids) for label, arm in ARMS.items()}
        memory = {label: arm.memory() for label, arm in arms.items()}
        timings = interleave({label: arm.step for label, arm in arms.items()}, arguments.repeats)
    figures: dict[str, Any] = {f"beyond the weights, {label}": readable(count) for label, count in memory.items()}
    for label in ARMS:
        if label != "LoRA":
            figures[f"memory over LoRA's, {label} (goal 0.5)"] = round(memory[label] / memory["LoRA"], 3)
            figures[f"time over LoRA's, {label} (median, low, high; goal 0.6)"] = [
                round(x, 3) for x in ratio(timings[label], timings["LoRA"])
            ]
    finish(f"qst_{arguments.size}", figures, timings)


if __name__ == "__main__":
    main()
