"""Second experiment: the same shift in a language that the base has never seen; gain against distance.

The reviews of the first experiment, with a share p of the word types renamed: each is replaced, wherever it stands, by
another word of about the same frequency, by one fixed permutation. The task, its shift and its cues stay what they are;
the base loses what it knew about the words. p is a dial of the distance to pretraining and of little else: only words
that the base's tokenizer keeps whole are renamed (at p = 1 they are 95 % of the running words), so that no text changes
its length in tokens, and a model from scratch has the same problem to solve under other token ids, but for pieces of
rarer words (3 % of the tokens). The small model alone is therefore not run again: its outcomes at every p are those of
the first experiment, as are all outcomes at p = 0. Texts are cut after their first 48 words, of which the base reads at
most 48 tokens.

"best single view" is the linear probe or the small model alone, whichever is better on ID validation with seed 0.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pairtune.pair import hub
from pairtune.reproductions.frame import Experiment, Part, Results
from pairtune.reproductions.levi_arms import NO_SMALL, PROBE, SMALL, Bench
from pairtune.reproductions.levi_shift import OOD, answers_to, load_task, outcomes, reviews
from pairtune.reproductions.sources import write_task
from pairtune.zoo import path as zoo_path

log = logging.getLogger("pairtune")
SHARES = (0.5, 1.0)
RUN = (PROBE, NO_SMALL, "LEVI")
BEST_VIEW = "best single view"
BLOCK = 20  # words of neighbouring frequency that are permuted among themselves
# A run of ASCII letters with no letter or digit of any script beside it, which is what tokenizers take for a word.
WORD = re.compile(r"(?<![^\W_])[A-Za-z]+(?![^\W_])")


def run(results: Results, settings: dict[str, Any], shift: Results) -> None:
    """Fill in what is missing; `shift`: the results of the first experiment."""
    measure(results, settings)
    compare(results, settings, shift)


def measure(results: Results, settings: dict[str, Any]) -> None:
    """Tune the arms that the renaming concerns, for every share."""
    for share in SHARES:
        folder = results.folder / f"reviews-{share:g}"
        if not folder.is_dir():
            renamed, covered = rename(reviews(settings), share, settings)
            write_task(folder, renamed)
            results.note(f"share of the words renamed, p {share:g}", round(covered, 4))
        bench = Bench(results, load_task(folder), folder, settings["base"], settings, f"p {share:g}")
        for arm in RUN:
            rate = bench.rate(arm)
            for seed in bench.missing(arm):
                right = outcomes(bench, answers_to(bench, bench.tuned(arm, rate, seed)))
                results.add(bench.named(arm), seed, right)
                log.info("%s, seed %d: %.3f", bench.named(arm), seed, np.mean([right[split].mean() for split in OOD]))


def compare(results: Results, settings: dict[str, Any], shift: Results) -> None:
    """Take over what the renaming does not concern, and the gains by item."""
    chosen = {share: _best_view(results, shift, share) for share in (0.0, *SHARES)}
    results.note(BEST_VIEW, {f"p {share:g}": view for share, view in chosen.items()})
    for seed in range(settings["seeds"]):
        for share, view in chosen.items():
            for arm in RUN if share == 0 else ():
                results.add(f"{arm}, p 0", seed, shift.outcomes[arm][seed])
            results.add(f"{SMALL}, p {share:g}", seed, shift.outcomes[SMALL][seed])
            results.add(f"{BEST_VIEW}, p {share:g}", seed, results.outcomes[f"{view}, p {share:g}"][seed])
            levi = results.outcomes[f"LEVI, p {share:g}"][seed]
            for arm in (PROBE, BEST_VIEW, NO_SMALL):
                other = results.outcomes[f"{arm}, p {share:g}"][seed]
                gain = {split: np.subtract(levi[split], other[split]) for split in levi}
                results.add(f"gain over {arm}, p {share:g}", seed, gain)


def _best_view(results: Results, shift: Results, share: float) -> str:
    probe = shift.notes[f"validation accuracy, {PROBE}"]
    if share:
        probe = results.notes[f"validation accuracy, {PROBE}, p {share:g}"]
    small = shift.notes[f"validation accuracy, {SMALL}"]
    return PROBE if max(probe.values()) >= max(small.values()) else SMALL


def rename(
    splits: Mapping[str, list[dict[str, Any]]], share: float, settings: Mapping[str, Any]
) -> tuple[dict[str, list[dict[str, Any]]], float]:
    """The splits with a share of the word types renamed, and the share of running words that this concerns."""
    words = settings["max_length"]
    cut = {
        name: [row | {"text": " ".join(row["text"].split()[:words])} for row in rows] for name, rows in splits.items()
    }
    source = settings["base"]
    folder = zoo_path(source.removeprefix("zoo:")) if source.startswith("zoo:") else hub.local_folder(source)
    counts = Counter(word for rows in cut.values() for row in rows for word in words_of(row["text"]))
    tokenizer = hub.load_tokenizer(folder)
    whole = {word for word in counts if len(tokenizer.tokenize(word)) == 1}
    names = permutation(Counter({word: n for word, n in counts.items() if word in whole}), share)
    renamed = {name: [row | {"text": translate(row["text"], names)} for row in rows] for name, rows in cut.items()}
    return renamed, sum(counts[word] for word in names) / max(counts.total(), 1)


def words_of(text: str) -> Iterable[str]:
    """The words of a text, in lower case."""
    return (found.group().lower() for found in WORD.finditer(text))


def permutation(counts: Counter[str], share: float, seed: int = 0) -> dict[str, str]:
    """Another name for a share of the words: a bijection of these words onto themselves without a fixed point.

    Among every `BLOCK` words of neighbouring frequency, the chosen ones change places round a random circle.
    """
    generator = np.random.default_rng(seed)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    names: dict[str, str] = {}
    for start in range(0, len(ranked), BLOCK):
        block = ranked[start : start + BLOCK]
        circle = [block[i] for i in generator.permutation(len(block))[: round(share * len(block))]]
        if len(circle) > 1:
            names |= dict(zip(circle, [*circle[1:], circle[0]], strict=True))
    return names


def translate(text: str, names: Mapping[str, str]) -> str:
    """A text with its words renamed (in lower case); everything else stays."""
    return WORD.sub(lambda found: names.get(found.group().lower(), found.group()), text)


def _part(name: str, method: str, baseline: str, counts: bool = True) -> Part:
    return Part(name, method, baseline, OOD, worth=0.01, counts=counts)


FAR = Experiment(
    name="far",
    title="The same shift with a share p of the word types renamed, so that the base does not know them: gain against "
    "distance from pretraining.",
    parts=(
        *(
            _part(f"far from pretraining, against {arm}", "LEVI, p 1", f"{arm}, p 1")
            for arm in (PROBE, SMALL, NO_SMALL)
        ),
        *(
            _part(f"the gain over {arm} grows with the distance", f"gain over {arm}, p 1", f"gain over {arm}, p 0")
            for arm in (PROBE, BEST_VIEW, NO_SMALL)
        ),
        *(
            _part(f"gain over {arm} at p = {share:g}", f"LEVI, p {share:g}", f"{arm}, p {share:g}", counts=False)
            for arm in (PROBE, BEST_VIEW, NO_SMALL)
            for share in (0.0, *SHARES)
        ),
    ),
    run=run,
    settings={},
)
