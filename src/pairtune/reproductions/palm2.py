"""What a small model remembers of canaries that it was tuned on, by how often they stood in the data.

Paper: "PaLM 2 Technical Report", arXiv 2305.10403, section 4.7 (memorisation) alone.

Setting, cut to two cores: `zoo:tiny-lm` (5.3 M parameters) tuned, all weights, one epoch on 200 pieces of stories and
novels with canaries of both kinds put in 1 to 32 times and as many never (ten of each kind and number), in place of a
model pretrained from scratch; one language. The tokens that are given and that must follow (60 and 30) and how the
canaries are made are the paper's, but for the shortness of the documents (`data/canaries.py`). "Each once" is the same
data with every canary in it once; "tuned on" is the tuned model tuned further on 200 other pieces. A seed draws the
pieces, the canaries and the order of training. The learning rate is fixed (nothing is chosen); no bins by language.

The texts (`gutenberg_stories`, the files of its validation part, which the base has not read) are in the data folder,
named by PAIRTUNE_DATA or by `--set data=FOLDER`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from pairtune.analysis.memorisation import continued_exactly, measure_memorisation
from pairtune.data.canaries import KINDS, REPEATS, Canary, make_canaries, with_canaries
from pairtune.data.task import Task
from pairtune.data.tokens import Tokens
from pairtune.pair.base import Base
from pairtune.pair.pair import Pair
from pairtune.reproductions.frame import Part, Reproduction, Results
from pairtune.reproductions.likelihood.sets import texts_of
from pairtune.training.feeds import longest_input
from pairtune.training.run import tune

TUNED, ONCE, ON, BASE, NONE = "tuned", "each once", "tuned on", "the base", "none"
CANARIES, SEEDS = "canaries", "seeds"
RATIO, LIKELIHOOD = "AUROC of the log ratio", "AUROC of the likelihood"
RISE = "rank correlation of repeats and share"


def run(results: Results, settings: dict[str, Any]) -> None:
    """Fill in what is missing, seed by seed."""
    for seed in range(settings["seeds"]):
        if results.missing(TUNED, seed) or results.missing(ONCE, seed):
            _seed(results, settings, seed)
        count = len(results.outcomes[TUNED][seed][CANARIES])
        results.add(NONE, seed, {CANARIES: [0.0] * count, SEEDS: [0.0]})
        results.add(f"{NONE} of one number", seed, {CANARIES: [0.0] * settings["each"] * len(KINDS)})


def _seed(results: Results, settings: Mapping[str, Any], seed: int) -> None:
    """Both tunings of a seed, and what each remembers."""
    pieces = _pieces(settings)
    random.Random(seed).shuffle(pieces)
    size = settings["train"]
    train, other, held = pieces[:size], pieces[size : 2 * size], pieces[2 * size : 3 * size]
    base = Base.load(settings["base"], device="cpu")
    canaries = make_canaries(train, Tokens(base.tokenizer), longest_input(base), settings["each"], seed)
    planted = [one for one in canaries if one.repeats]
    single = [Canary(one.text, one.kind, 1) for one in planted]
    often = _task(results.folder / "often", train, held, canaries, seed)
    once = _task(results.folder / "once", train, held, single, seed)
    after = _task(results.folder / "after", other, held, [], seed)
    _keep(results, BASE, seed, continued_exactly(Pair(base), canaries), canaries)
    results.add(ONCE, seed, {CANARIES: continued_exactly(_tuned(once, settings, seed), planted)})
    kept = results.folder / f"pair-{seed}"
    pair = _tuned(often, settings, seed, out=kept)
    told = measure_memorisation(pair, Task.load(often, kind="lm", text="text"), rows=settings["rows"]).told
    assert told is not None
    results.add(RATIO, seed, {SEEDS: [told.ratio[0]]})
    results.add(LIKELIHOOD, seed, {SEEDS: [told.likelihood[0]]})
    found = continued_exactly(pair, canaries)
    on = _tuned(after, settings, seed, start=kept)
    results.add(ON, seed, {CANARIES: continued_exactly(on, planted)})
    _keep(results, TUNED, seed, found, canaries)


def _keep(results: Results, arm: str, seed: int, found: Sequence[bool], canaries: Sequence[Canary]) -> None:
    """Outcomes of the canaries that were put in, of each number of repeats, and how the share goes with it."""
    both = list(zip(found, canaries, strict=True))
    by = {count: [right for right, one in both if one.repeats == count] for count in REPEATS}
    for count, right in by.items():
        results.add(f"{arm}, {count} times", seed, {CANARIES: right})
    if arm == TUNED:
        put = [count for count in REPEATS if count]
        shares = [float(np.mean(by[count])) for count in put]
        rank = float(spearmanr(put, shares).statistic) if len(set(shares)) > 1 else 0.0  # type: ignore[attr-defined]
        results.add(RISE, seed, {SEEDS: [rank]})
    every = [right for right, one in both if one.repeats]
    results.add(arm, seed, {CANARIES: every})  # last: what it lacks is run again


def _tuned(
    task: Path, settings: Mapping[str, Any], seed: int, *, start: Path | None = None, out: Path | None = None
) -> Pair:
    """One epoch over a task, from the base or from a pair of it."""
    config: dict[str, Any] = {
        "base": settings["base"], "data": {"source": str(task), "kind": "lm", "text": "text"}, "tuner": "full",
        "objective": "lm", "seed": seed,
        "training": {"lr": settings["lr"], "epochs": 1, "batch_size": settings["batch"], "warmup": 0.1, "keep": 1,
                     "precision": settings["precision"], "eval_every": 10_000},
    }  # fmt: skip
    config |= {"start": str(start)} if start else {}
    return tune(config | {"out": str(out)}, restart=True) if out else tune(config)


def _task(folder: Path, train: Sequence[str], held: Sequence[str], canaries: Sequence[Canary], seed: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = with_canaries([{"text": text} for text in train], "text", canaries, seed)
    splits = {"train": rows, "validation": [{"text": text} for text in held[:20]],
              "test": [{"text": text} for text in held[20:]]}  # fmt: skip
    for name, split in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in split), encoding="utf-8")
    return folder


def _pieces(settings: Mapping[str, Any]) -> list[str]:
    """The texts in pieces of about as many tokens as the base reads."""
    size, found = settings["characters"], []
    for file in ("children_valid", "novels_valid"):
        for text in texts_of(settings, "gutenberg_stories", file):
            joined = " ".join(text.split())
            found += [joined[at : at + size] for at in range(0, len(joined) - size, size)]
    return found


REPRODUCTION = Reproduction(
    slug="palm2",
    paper="PaLM 2 Technical Report (arXiv 2305.10403), the part about memorisation",
    claim="The more often a passage stands in the training data, the likelier a model continues it word for word; "
    "what was never there is not continued; removing repetitions lowers what is remembered.",
    module="analysis/memorisation, data/canaries",
    verb="inspect memorisation",
    parts=(
        Part("16 times against once", f"{TUNED}, 16 times", f"{TUNED}, 1 times", (CANARIES,), 0.1),
        Part("32 times against once", f"{TUNED}, 32 times", f"{TUNED}, 1 times", (CANARIES,), 0.1),
        Part("the share rises with the repeats", RISE, NONE, (SEEDS,), 0.5),
        Part("what was never there", f"{NONE} of one number", f"{TUNED}, 0 times", (CANARIES,), margin=0.05),
        Part("without repetitions", TUNED, ONCE, (CANARIES,), 0.05),
        Part("log ratio against likelihood", RATIO, LIKELIHOOD, (SEEDS,), counts=False),
        Part("further tuning forgets", TUNED, ON, (CANARIES,), 0.05, counts=False),
        Part("the base remembers none", NONE, BASE, (CANARIES,), margin=0.02, counts=False),
    ),
    run=run,
    reading=(
        "Every counted part holds. What stands in the data once to 4 times is continued in 3 % of cases, 8 times in "
        "13 %, 16 times in 42 %, 32 times in 98 %; the same canaries put in once each leave nothing. One epoch over "
        "200 other pieces makes the model forget all of it word for word. What the share says in steps, the log ratio"
        " says at once: it tells trained passages from others far better than the likelihood does (AUROC .97 and "
        ".85). In a first run, with a generator that let a canary that was never put in share a document with others,"
        " one of 60 of these was continued (its second half had been learnt elsewhere), and that part was undecided; "
        "they have documents of their own since. Tuning a small pretrained model for one epoch is no pretraining: "
        "counts at which memory sets in are those of this model and this rate."
    ),
    settings={
        "base": "zoo:tiny-lm", "data": None, "seeds": 3, "train": 200, "each": 10, "characters": 800, "rows": 200,
        "lr": 1e-3, "batch": 8, "precision": "bf16",
    },
)  # fmt: skip
