"""A side network on a base in four bits: what it keeps in memory, how long a step takes, and what it learns.

Paper: Quantized Side Tuning, arXiv 2401.07159.

Setting, cut to two cores: zoo:tiny-lm (5 M parameters, four blocks of width 256), instructions and their answers. At
this width the paper's reduction of 16 leaves 16 channels; the side is 4 times narrower here. All arms tune equal steps,
the learning rate is the one out of three with the lowest validation loss with seed 0. The arms: QST with adapters and
with average pooling on the base in four bits, LoRA on it (QLoRA), LoRA and a ladder on the float base, and LoRA on the
last block alone (what frozen features give without a side).

Judged: the loss on test answers is at most 2 % above QLoRA's; it is below that of the last block alone; the bytes
beyond weights (gradients, optimizer, what one batch keeps for its backward) are at most half of QLoRA's; the
processor time of a step is at most 0.6 of QLoRA's. On a processor, dequantising costs both the same. The vocabulary
loss never makes a float32 copy of the logits, in all arms.

The data folder (`wikitext2`, `instructions_small`) is named by PAIRTUNE_DATA or by `--set data=FOLDER`.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any

import torch

from pairtune.pair.pair import Pair
from pairtune.reproductions.frame import Part, Reproduction, Results
from pairtune.reproductions.instructing import gains, instructions, tuned, validation_loss, write

log = logging.getLogger("pairtune")
SIDE, POOLED, QLORA, LORA, LADDER, LAST = "QST", "QST, pooled", "QLoRA", "LoRA", "ladder", "last block"
NEAR, HALF, FASTER = "QLoRA with 2 % more loss", "half of QLoRA's memory", "0.6 of QLoRA's time"
FOUR = {"quantize": "4bit"}
_LAST_BLOCK = [f"layers.3.{part}" for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")]


def arms(settings: dict[str, Any]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Arm → (tuner, further configuration)."""
    side = {"name": "qst", "reduction": settings["reduction"]}
    lora = {"name": "lora", "r": settings["rank"], "alpha": 2 * settings["rank"]}
    return {
        SIDE: (side, FOUR),
        POOLED: (side | {"down": "avg-pool"}, FOUR),
        QLORA: (lora, FOUR),
        LORA: (lora, {}),
        LADDER: ({"name": "ladder", "reduction": settings["reduction"]}, {}),
        LAST: (lora | {"targets": _LAST_BLOCK}, FOUR),
    }


def run(results: Results, settings: dict[str, Any]) -> None:
    """Fill in what is missing, arm by arm and seed by seed."""
    folder = results.folder / "tasks"
    write(folder, settings)
    for arm, (tuner, more) in arms(settings).items():
        trial = partial(_trial, folder, settings, tuner, more)
        rate = results.choose(arm, settings["rates"], trial, "validation loss")
        for seed in range(settings["seeds"]):
            if results.missing(arm, seed):
                pair = tuned(folder, settings, tuner, rate, seed, **more)
                found = gains(pair, instructions(folder), "test", settings["words"])
                memory, seconds = beyond_weights(pair), step_seconds(pair, settings)
                results.add(arm, seed, {"T": found, "memory": [-memory / 1e6], "step": [-seconds]})
                log.info("%s, seed %d: %.4f nats, %.2f MB, %.3f s", arm, seed, -found.mean(), memory / 1e6, seconds)
    for seed in range(settings["seeds"]):
        own = results.outcomes[QLORA][seed]
        results.add(NEAR, seed, {"T": [1.02 * value for value in own["T"]]})
        results.add(HALF, seed, {"memory": [0.5 * value for value in own["memory"]]})
        results.add(FASTER, seed, {"step": [0.6 * value for value in own["step"]]})


def _trial(folder: Any, settings: dict[str, Any], tuner: dict[str, Any], more: dict[str, Any], rate: float) -> float:
    return validation_loss(tuned(folder, settings, tuner, rate, 0, **more))


def beyond_weights(pair: Pair) -> float:
    """Bytes of gradients, optimizer and saved activations, as the run measured them before it began."""
    memory = pair.top.record["training"]["preflight"]["memory"]
    return float(memory["gradients"] + memory["optimizer"] + memory["activations"])


def step_seconds(pair: Pair, settings: dict[str, Any]) -> float:
    """Processor seconds of a forward and backward on random tokens, the least of three."""
    from pairtune.objectives.token_nll import next_tokens, summed_nll

    shape = (settings["batch"], settings["words"])
    ids = torch.randint(5, pair.base.vocabulary_rows, shape, generator=torch.Generator().manual_seed(0))
    spent = []
    for _ in range(3):
        start = time.process_time()
        logits = pair.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        summed_nll(logits, next_tokens(ids)).backward()
        spent.append(time.process_time() - start)
        for _, parameter in pair.trainable():
            parameter.grad = None
    return min(spent)


REPRODUCTION = Reproduction(
    slug="qst",
    paper="Quantized Side Tuning: Fast and Memory-Efficient Tuning of Quantized Large Language Models "
    "(arXiv 2401.07159)",
    claim="A narrow side network on a base in four bits learns nearly as well as QLoRA, with at most half its memory "
    "beyond the weights and at most 0.6 of its time for a step, and better than the last block on frozen features.",
    module="tuners/qst",
    verb="tune --tuner qst --quantize 4bit",
    parts=(
        Part("near QLoRA", SIDE, NEAR, ("T",)),
        Part("more than frozen features", SIDE, LAST, ("T",), worth=0.005),
        Part("half the memory", SIDE, HALF, ("memory",)),
        Part("faster steps", SIDE, FASTER, ("step",)),
        Part("pools near adapters", POOLED, SIDE, ("T",), worth=0.005, counts=False),
        Part("pools keep less", POOLED, SIDE, ("memory",), counts=False),
        Part("blocks with attention against a ladder", SIDE, LADDER, ("T",), worth=0.005, counts=False),
        Part("four bits cost LoRA", LORA, QLORA, ("T",), worth=0.005, counts=False),
    ),
    run=run,
    settings={
        "data": None,
        "base": "zoo:tiny-lm",
        "seeds": 5,
        "words": 96,
        "train": 1600,
        "held": 100,
        "test": 120,
        "reduction": 4,
        "rank": 8,
        "steps": 80,
        "batch": 8,
        "rates": [3e-4, 1e-3, 4e-3],
    },
)
