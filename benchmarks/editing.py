"""Thousands of edits in one delta: 10,000 made facts edited into a small language model; one JSON line at the end.

Each fact is a made name with a town to live in; nothing in the base speaks of it. Measured: seconds of training for a
thousand edits, what of them the machine's matrix product would need for the same multiplications, and how many edits
hold by their place in the file (free generation, exact match), with what that cost on general text.
"""

from __future__ import annotations

import argparse
import logging
import random
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from _harness import Timing, finish, matrix_flops
from pairtune.analysis.edits import measure_edits
from pairtune.data.fact_tokens import FactTokens
from pairtune.data.facts import Facts
from pairtune.editing.edit import edit
from pairtune.editing.locft.batches import EditBatches
from pairtune.pair.pair import Pair
from pairtune.training.feeds import longest_input

SYLLABLES = "ba be bi bo da de di do ka ke ki ko la le li lo ma me mi mo na ne ni no ra re ri ro sa se si so".split()
TOWNS = "Paris London Rome Madrid Berlin Vienna Dublin Athens Moscow Tokyo Lisbon Boston Chicago Geneva Venice".split()


def made(count: int, seed: int) -> Facts:
    """So many facts about people with different names."""
    generator = random.Random(seed)
    names: dict[str, None] = {}
    while len(names) < count:
        words = ("".join(generator.choice(SYLLABLES) for _ in range(2)).capitalize() for _ in range(2))
        names[" ".join(words)] = None
    rows = [{"prompt": f"{name} lives in", "target": generator.choice(TOWNS)} for name in names]
    return Facts.read(rows)


def multiplications(pair: Pair, facts: Facts, batch: int) -> float:
    """Floating-point operations of one pass over all edits, forward and backward, counted on one batch."""
    batches = EditBatches(pair, FactTokens(pair.tokenizer, longest_input(pair.base)).pairs(facts))
    for _, parameter in pair.trainable():
        parameter.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        batches.losses(range(min(batch, len(facts)))).mean().backward()
    return counter.get_total_flops() * len(facts) / min(batch, len(facts))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="zoo:tiny-lm")
    parser.add_argument("--edits", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--lr", type=float, default=2e-3)
    # The tool's rule would take one matrix of 256 x 688, which is too small for so many: with 400 edits and 12 epochs,
    # 51 % held there, 81 % in the MLP of block 1, and 90 % in all of block 1.
    parser.add_argument("--at", default="1", help="block and module")
    parser.add_argument("--method", default="locft-bf")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.getLogger("pairtune").setLevel(logging.ERROR)
    facts = made(arguments.edits, arguments.seed)
    more = {} if arguments.method in ("df", "bf", "ft-l") else {"batch_size": arguments.batch_size}
    more |= {} if arguments.method == "full" else {"at": arguments.at}
    wall, cpu = time.perf_counter(), time.process_time()
    pair = edit(
        facts, arguments.base, method=arguments.method, lr=arguments.lr, epochs=arguments.epochs,
        seed=arguments.seed, device="cpu", **more,
    )  # fmt: skip
    training = Timing([time.perf_counter() - wall], [time.process_time() - cpu])
    wall, cpu = time.perf_counter(), time.process_time()
    found = measure_edits(pair, facts)
    measuring = Timing([time.perf_counter() - wall], [time.process_time() - cpu])
    record, thousands = pair.top.record["training"], len(facts) / 1000
    bound = multiplications(pair, facts, record["batch_size"]) * record["updates"] / len(facts) / matrix_flops()
    figures = {
        "method, place, rate": f"{record['method']} at {record['at']}, {record['lr']:g}",
        "edits; work": f"{len(facts):,}; {record['updates']:,} updates, {record['ended']}",
        "CPU seconds of training a thousand edits": round(training.median / thousands, 2),
        "the same for one epoch": round(training.median * len(facts) / record["updates"] / thousands, 3),
        "share of the machine's matrix product": round(bound / training.median, 3),
        "CPU seconds of measuring a thousand edits": round(measuring.median / thousands, 2),
        "reliability": round(found.reliability.share, 4),
        "reliability by place in the file": [round(share, 3) for _, _, share in found.positions],
        "loss of the edits, counts": found.losses,
        "general loss before, after": [round(found.general.before, 3), round(found.general.after, 3)],
        "bytes of the delta": pair.delta.nbytes,
    }
    finish("editing", figures, {"training": training, "measuring": measuring})


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
