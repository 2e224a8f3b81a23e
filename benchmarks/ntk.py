"""Tangent kernels of an encoder's blocks: ours against a loop of single-row gradients; one JSON line.

The loop is the plain way: one backward a row, its gradients kept, then products, block by block. Both give the kernels
of the same blocks, which must agree to 1e-3. Goal: at least 5 times as fast as the loop.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable

import numpy as np
import torch

from _harness import finish, interleave, ratio
from pairtune.analysis.ntk import candidates, modules_of
from pairtune.analysis.tangent_kernel import kernels
from pairtune.pair.base import Base

Batch = dict[str, torch.Tensor]


def by_rows(base: Base, layers: dict[str, list[str]], batches: list[Batch], outputs: Callable) -> dict[str, np.ndarray]:
    """The kernels from one backward a row."""
    names = [name for own in layers.values() for name in own]
    parameters = [base.parameters[name].requires_grad_() for name in names]
    rows: dict[str, list[torch.Tensor]] = {layer: [] for layer in layers}
    for batch in batches:
        for i in range(len(batch["input_ids"])):
            real = batch["attention_mask"][i].bool()
            value = outputs({name: tensor[i : i + 1, real] for name, tensor in batch.items()}).sum()
            found = dict(zip(names, torch.autograd.grad(value, parameters, allow_unused=True), strict=True))
            for layer, own in layers.items():
                rows[layer].append(torch.cat([g.flatten() for name in own if (g := found[name]) is not None]))
    base.model.requires_grad_(False)
    made = {}
    for layer, own in rows.items():
        stacked = torch.stack(own)
        made[layer] = (stacked @ stacked.T).double().numpy()
    return made


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="zoo:minilm")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--length", type=int, default=24)
    parser.add_argument("--blocks", type=int, nargs="*", help="numbers of the blocks; all by default")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    logging.getLogger("pairtune").setLevel(logging.ERROR)
    base = Base.load(arguments.base, task="classification", labels=["a", "b"], device="cpu")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 8000, (arguments.rows, arguments.length), generator=generator)
    lengths = torch.randint(arguments.length // 2, arguments.length + 1, (arguments.rows, 1), generator=generator)
    mask = (torch.arange(arguments.length) < lengths).long()
    batches = [
        {"input_ids": ids[i : i + 32] * mask[i : i + 32], "attention_mask": mask[i : i + 32]}
        for i in range(0, arguments.rows, 32)
    ]
    every = candidates(base)
    layers = {name: own for name, own in every.items() if not arguments.blocks or int(name) in arguments.blocks}
    modules = modules_of(base, layers)

    def outputs(batch: Batch) -> torch.Tensor:
        logits = base.model(**batch).logits
        if logits.ndim == 3:  # a language model: two of its last logits
            logits = logits[:, -1, :2]
        return (logits[:, :1] - logits[:, 1:2]) / 2**0.5

    def ours() -> dict[str, np.ndarray]:
        return kernels(modules, batches, outputs, base.blocks[min(int(name) for name in layers)][1])

    def loop() -> dict[str, np.ndarray]:
        return by_rows(base, layers, batches, outputs)

    first, second = ours(), loop()
    worst = max(float(np.abs(first[k] - second[k]).max() / np.abs(second[k]).max()) for k in first)
    assert worst < 1e-3, f"the kernels differ by {worst:.1e}"
    timings = interleave({"ours": ours, "a backward a row": loop}, arguments.repeats, warmup=0)
    faster = [f"{x:.1f}" for x in ratio(timings["a backward a row"], timings["ours"])]
    finish("ntk", {"kernels differ by": worst, "times as fast (median, low, high); goal 5": faster}, timings)


if __name__ == "__main__":
    main()
