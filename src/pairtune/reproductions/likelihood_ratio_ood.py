"""The likelihood ratio of variant and base as an out-of-distribution detector, near, far, on spam and on answers.

Paper: "Your Finetuned Large Language Model is Already a Powerful Out-of-distribution Detector", arXiv 2404.08679
(AISTATS 2025).

Six experiments, each cut to two cores; what each is and what was cut stands in its file under `likelihood/`: `near`
(other intents), `far` (other texts, and the paradox of length), `spam`, `answers`, `bases` (the ratio against a base
that knows nothing, or something else) and `training_length`. The base is a language model of 5 M parameters
(`zoo:tiny-lm`), tuned with all weights by the ordinary language-model loss on ID texts, no label used.

An arm is a detector, a split a pairing of an ID with an OOD set, and an outcome an item's pseudo-value, whose mean is
the AUROC (`likelihood/placement.py`). AUPR both ways and FPR at 95 % TPR stand under "figures by seed". "length, either
way" is the number of tokens with the sign that suits the split best.

What counts: the ratio against the likelihood in both forms, and against length, near; the sums where the outside is
shorter; spam against a variant tuned on ham; and that another base makes the ratio worse. All else is published. The
paper's note would call the claim falsified if the ratio did not beat the likelihood on two of three near sets (two are
at hand here), if a random or unrelated base did not hurt, or if length alone matched it.

The data folder (`clinc150`, `banking77`, `newsgroups20`, `movie_sentiment`, `ag_news_small`, `sms_spam`,
`tinyshakespeare`, `gsm8k`, `natural_instructions`, `wikitablequestions`, `liar`, `wikitext2`, `instructions_small`,
`gutenberg_stories`) is named by PAIRTUNE_DATA or by `--set data=FOLDER`.
"""

from __future__ import annotations

from pairtune.reproductions.frame import Reproduction
from pairtune.reproductions.likelihood.answers import ANSWERS
from pairtune.reproductions.likelihood.bases import BASES
from pairtune.reproductions.likelihood.far import FAR
from pairtune.reproductions.likelihood.near import PARTS, run
from pairtune.reproductions.likelihood.spam import SPAM_EXPERIMENT
from pairtune.reproductions.likelihood.training_length import TRAINING_LENGTH

REPRODUCTION = Reproduction(
    slug="likelihood-ratio-ood",
    paper="Your Finetuned Large Language Model is Already a Powerful Out-of-distribution Detector (arXiv 2404.08679)",
    claim="Without labels or OOD data, log p(base) − log p(variant) tells ID from OOD texts better than the variant's "
    "likelihood does, near and far, also where the likelihood follows length, and it is the base that makes it so.",
    module="ood/log_ratio",
    verb="score --detector log-ratio",
    parts=PARTS,
    run=run,
    settings={
        "base": "zoo:tiny-lm",
        "data": None,
        "seeds": 5,
        "train": 2000,
        "validation": 300,
        "test": 600,
        "epochs": 3,
        "batch_size": 32,
        "max_length": 64,
        "precision": "bf16",
        "new_tokens": 24,
        "play_tokens": 300_000,
        "broad_tokens": 1_000_000,
    },
    more=(FAR, SPAM_EXPERIMENT, ANSWERS, BASES, TRAINING_LENGTH),
    reading="One counted part is undecided, all others hold. Between the intents of one domain (BANKING77) the ratio's "
    "sum is only a little above the likelihood's (.64 to .61), and per token the likelihood is the better of the two "
    "(.67 to .66): a base of 5 M parameters and 14 M tokens says little about banking, so that what the variant has "
    "learnt beyond it is probably the domain, which both sides of the split share. Features of a sentence encoder do "
    "better there (.74). On CLINC150 the ratio has .88 (per token .89) against .79 (.83). It is the base that makes "
    "it: with a random base or one of Shakespeare alone the sum falls to .63 and .66, below the likelihood, and with "
    "3, 10, 30 and 100 % of a pretraining it rises from .74 to .82 with no end in sight; a larger base should raise "
    "BANKING77 as well, which is not shown here. Length: on shorter texts the sum's likelihood ranks almost all of "
    "them wrongly (.00 to .10), the ratio ranks .97 to .99 rightly. Spam is longer than ham, which the plain "
    "likelihood of ham's variant gets for nothing (.95, length alone .93); there the ratio against the base is worse "
    "(.66), and the ratio of two variants best (.97, per token .99). Answers that this base writes carry little: "
    "answer forms lie between .56 and .78, and an answer given its question is at or below chance. By the rule of the "
    "paper's note the claim is not falsified: the sum beats the likelihood on both near sets in the mean, an unrelated "
    "base hurts, and length does not match it.",
)
