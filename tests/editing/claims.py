"""Claims for a tiny pair, with verdicts of which either side has some right and some wrong."""

import random

from tests.conftest import WORDS

from pairtune import Task
from pairtune.data.split import Split
from pairtune.editing.reflex.reading import Reading

LABELS = ["yes", "no", "thanks please"]


def rows(count, seed):
    draw = random.Random(seed)
    return [{"text": " ".join(draw.choices(WORDS[:40], k=draw.randint(3, 8))), "label": "yes"} for _ in range(count)]


def as_task(splits):
    return Task("claims", "classification", ("text",), "label", LABELS, splits)


def disagreed(pair):
    """Rows whose label is what the base or the variant says, in turn, so that both are right on some and wrong."""
    splits = {}
    for seed, (name, count) in enumerate({"train": 160, "validation": 40, "test": 40}.items()):
        split = Split.of(rows(count, seed), name)
        reading = Reading(pair, as_task({"train": split}))
        prompts = reading.rows(split)
        with pair.off():
            base = reading.probabilities(prompts).argmax(1)
        variant = reading.probabilities(prompts).argmax(1)
        gold = [
            (a if i % 2 else b) if a != b else (a + (i % 4 == 0)) % 3
            for i, (a, b) in enumerate(zip(base, variant, strict=True))
        ]
        splits[name] = Split.of([{**row, "label": LABELS[g]} for row, g in zip(split, gold, strict=True)], name)
    return as_task(splits)
