"""A small model is taught facts in one wording, and asked in others: is it the sentences that it learns, or the facts?

Paper: "FineTuneBench: How well do commercial fine-tuning APIs infuse knowledge into LLMs?", arXiv 2411.05059.

Setting, cut to two cores: in place of the commercial models a language model of 1.8 M parameters and 4 blocks, which
has read about 125 made people with six attributes each: of 100 every kind of question in every wording, of 25 the plain
wordings alone ("people of plain wordings": how far the base itself carries a fact over). Then 25 new people's 150 facts
are taught in one wording, the answer alone being scored, by tuning all weights (1, 3, 10 and 30 epochs), and by LoRA of
rank 8 and 64; and other values of 150 facts that it knows ("changed facts"). The questions are those of `pairtune
inspect knowledge`, written greedily; an answer counts where the wanted words stand in it. News, code and medical
guidelines are left out, and so is a judge.

A seed draws the new people, their values, the questions and the order of training; the base stays. Each tuner's rate is
the one out of three that has the most facts of 25 other people as taught after 30 epochs, with seed 0 (of equal ones
the lowest). The ablation has five more wordings of each fact in as many steps. Nothing is chosen on the people that
count. The stories are in the data folder (`gutenberg_stories`), named by PAIRTUNE_DATA or by `--set data=FOLDER`.

Yes and no are right equally often among the questions that follow from facts, so that their share right is the balanced
accuracy but for single questions; "guessing" is one half.
"""

from __future__ import annotations

from typing import Any

from pairtune.data.knowledge import MEMORISED, PREFIXED
from pairtune.reproductions.frame import Part, Reproduction, Results
from pairtune.reproductions.taught.arms import (
    DERIVED,
    FACTS,
    GENERAL,
    MADE_UP,
    OLD,
    OTHERWISE,
    REPHRASED,
    Arm,
    Bench,
)

EPOCHS = (1, 3, 10, 30)
ALL, CHANGED, MORE = "all weights, 30 epochs", "changed facts", "six wordings"
LORA = {8: "LoRA 8, 30 epochs", 64: "LoRA 64, 30 epochs"}
BASE, PLAIN, GUESS, NINE, NOTHING = "the base", "people of plain wordings", "guessing", "nine of ten", "as before"
ARMS = {
    **{f"all weights, {count} epoch{'s' * (count > 1)}": Arm("full", "full", count) for count in EPOCHS},
    **{name: Arm({"name": "lora", "r": rank, "alpha": 2 * rank}, f"lora {rank}", 30) for rank, name in LORA.items()},
    MORE: Arm("full", "full", 30, paraphrases=5),
    CHANGED: Arm("full", "full", 30, changed=True),
}
ONE_EPOCH = "all weights, 1 epoch"


def run(results: Results, settings: dict[str, Any]) -> None:
    """Fill in what is missing, arm by arm."""
    bench = Bench(results, settings)
    for seed in range(settings["seeds"]):
        if results.missing(BASE, seed):
            bench.keep(BASE, seed, bench.bare(), bench.facts(seed))
        if results.missing(PLAIN, seed):
            bench.keep(PLAIN, seed, bench.bare(), bench.plain)
    for name, arm in ARMS.items():
        rate = bench.rate(ARMS[ALL] if arm.rates == "full" else arm)
        for seed in range(settings["seeds"]):
            if results.missing(name, seed):
                bench.run(name, arm, rate, seed)
    for seed in range(settings["seeds"]):
        constants(results, seed)


def constants(results: Results, seed: int) -> None:
    """Bounds that arms are compared with, item by item."""
    sizes = {split: len(values) for split, values in results.outcomes[CHANGED][seed].items()}
    sizes[FACTS] = sizes[MEMORISED]
    for name, value in ((GUESS, 0.5), (NINE, 0.9), (NOTHING, 0.0)):
        results.add(name, seed, {split: [value] * size for split, size in sizes.items()})


REPRODUCTION = Reproduction(
    slug="finetunebench",
    paper="FineTuneBench: How well do commercial fine-tuning APIs infuse knowledge into LLMs? (arXiv 2411.05059)",
    claim="Tuning on facts in one wording has them by heart in that wording, clearly less so in others, and leaves "
    "questions whose answers follow from them at guessing; changed facts carry over less than new ones; more epochs "
    "make a model answer where there is nothing to know; further wordings in training help.",
    module="analysis/knowledge, data/knowledge_made",
    verb="inspect knowledge",
    parts=(
        Part("by heart as taught", ALL, NINE, (MEMORISED,)),
        Part("less in other words", f"{ALL}: {MEMORISED}", f"{ALL}: {REPHRASED}", (FACTS,), 0.1),
        Part("at guessing where answers follow", GUESS, ALL, DERIVED, margin=0.1),
        Part("changed facts carry over less", ALL, CHANGED, (OTHERWISE,), 0.05),
        Part("more epochs, more made up", ALL, ONE_EPOCH, (MADE_UP,), 0.1),
        Part("further wordings help", MORE, ALL, (REPHRASED,), 0.05),
        # What the claim does not say, and what it needs to mean anything.
        Part("LoRA 8: less in other words", f"{LORA[8]}: {MEMORISED}", f"{LORA[8]}: {REPHRASED}", (FACTS,), 0.1,
             counts=False),
        Part("LoRA 64: less in other words", f"{LORA[64]}: {MEMORISED}", f"{LORA[64]}: {REPHRASED}", (FACTS,), 0.1,
             counts=False),
        Part("the added sentence alone costs", f"{ALL}: {MEMORISED}", f"{ALL}: {PREFIXED}", (FACTS,), 0.1,
             counts=False),
        Part("the base carries its own facts over, in words", PLAIN, NINE, (REPHRASED,), counts=False),
        Part("the base derives from its own facts", PLAIN, GUESS, DERIVED, 0.1, counts=False),
        Part("changed facts: the old answer stays", CHANGED, NOTHING, (OLD,), 0.1, counts=False),
        Part("changed facts carry over less, in words", ALL, CHANGED, (REPHRASED,), 0.05, counts=False),
        Part("stories are forgotten", NOTHING, ALL, (GENERAL,), 0.02, counts=False),
    ),
    run=run,
    reading=(
        "Five of six counted parts hold, one does not. Facts are by heart after ten epochs and questions that follow "
        "from them stay at guessing (.51), but that part says little: the base does not derive anything from facts "
        "that it knows from pretraining either (.50), so that a model of this size has no way from a fact to its "
        "consequences that tuning could fail to teach. In other words the facts come back nearly as often as taught "
        "(.97 to 1.00), far from the paper's .19 to .89: the base has read the other wordings about a hundred other "
        "people, and it carries its own facts over as well. What does cost is a sentence behind the question (.56); "
        "and the more epochs, the more is made up about people who are not there. Changed facts carry over no less "
        "than new ones, and no old answer is left. A first run had a fault that its figures showed: who was asked "
        "about told whether yes was right, which the base had read, so that changed facts seemed to carry over "
        "better; questions draw it since, and everything was run again. Three seeds, one base."
    ),
    settings={
        "data": None,
        "seeds": 3,
        "shape": ["--layers", "4", "--width", "128", "--inner", "344", "--decay-tokens", "300000"],
        "known": 100,
        "plain": 25,
        "people": 25,
        "comparisons": 120,
        "drawings": 3,
        "tellings": 4,
        "characters": 300_000,
        "tokens": 3_000_000,
        "texts": 60,
        "answer": 8,
        "batch": 10,
        "rates": {"full": [3e-4, 1e-3, 3e-3], "lora 8": [3e-3, 1e-2, 3e-2], "lora 64": [1e-3, 3e-3, 1e-2]},
    },
)  # fmt: skip
