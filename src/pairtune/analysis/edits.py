"""What edits did to a model: do they hold, also in other words; did the rest stay.

Measured as people use a model: free greedy generation of at most 32 tokens, cut at the first line break, full stop or
end token, compared by exact match in the spelling of `data.facts.normalised` (Yang, Sun et al., arXiv 2509.22072).

reliability: the prompt's answer is the target. generalisation: the rephrase's answer is the target. locality: the
answer to an unrelated prompt is what it was before. General ability: the loss on general text, before and after.

Departure: of a target with full stops in it ("St. Louis"), as many are read as it has, else it could never match.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pairtune.analysis import forgetting, predict
from pairtune.analysis.predict import Reader
from pairtune.analysis.progress import Steps
from pairtune.analysis.report import Document, Report
from pairtune.analysis.shares import Share
from pairtune.data.buckets import WRITING, batches, tokens_a_batch
from pairtune.data.collate import Collator
from pairtune.data.fact_tokens import FactTokens
from pairtune.data.facts import Fact, Facts, normalised
from pairtune.data.forms import IGNORED
from pairtune.errors import InputError
from pairtune.pair.greedy import greedy
from pairtune.pair.paired import Difference, compare
from pairtune.pair.views import log_probs
from pairtune.training.feeds import longest_input

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

NEW_TOKENS = 32
PARTS = 10  # of the file, in which reliability is given against position
BOUNDS = (0.01, 0.1, 1.0, 3.0)  # nats a token, between which losses are counted; below the first, an edit is learnt
GENERAL_TEXTS = 1000


@dataclass(frozen=True)
class Said:
    """An answer: `right` says whether it is the target, or for a locality prompt what it was `before`."""

    prompt: str
    said: str
    right: bool
    before: str | None = None


@dataclass(frozen=True)
class Outcome:
    """One edit. `loss`: mean −log p of the target's tokens in nats, its end included."""

    place: str
    target: str
    prompt: Said
    rephrases: list[Said]
    locality: list[Said]
    loss: float


@dataclass(frozen=True)
class Ability:
    """Loss on general text, nats a token, before and after; `texts` has both of each paragraph."""

    source: str
    before: float
    after: float
    change: Difference
    texts: list[tuple[float, float]]

    @classmethod
    def of(cls, source: str, before: np.ndarray, after: np.ndarray) -> Ability:
        """From the [texts] losses a token."""
        each = list(zip(before.tolist(), after.tolist(), strict=True))
        return cls(source, float(before.mean()), float(after.mean()), compare(before, after), each)


@dataclass(frozen=True)
class EditReport(Report):
    """What `measure_edits` found.

    Attributes:
        base: the base's source. made: how the edits were made, as the pair's card has it.
        already: the share of prompts that had their target before.
        losses: how many edits have a loss below each of `BOUNDS`, and above the last.
        positions: (first edit, last edit, reliability) of equal parts of the file, from 0.
        conflicts: edits that cannot all hold, in words.
        edits: every edit's outcome, in the file's order.
    """

    schema: ClassVar[str] = "pairtune.edit/1"
    base: str
    made: dict[str, Any]
    reliability: Share
    already: Share
    generalisation: Share | None
    locality: Share | None
    general: Ability
    losses: list[int]
    positions: list[tuple[int, int, float]]
    conflicts: list[str]
    edits: list[Outcome]

    def document(self) -> Document:
        """The report as a page or on the terminal."""
        from pairtune.analysis.edits_shown import document

        return document(self)

    @property
    def score(self) -> float:
        """One figure to choose by: the mean of the shares that there are, less the rise of the loss on general text."""
        shares = [one.share for one in (self.reliability, self.generalisation, self.locality) if one is not None]
        return sum(shares) / len(shares) - self.general.change.mean

    @property
    def metrics(self) -> dict[str, float]:
        """The figures that a card keeps."""
        shares = {"reliability": self.reliability, "generalisation": self.generalisation, "locality": self.locality}
        found = {name: one.share for name, one in shares.items() if one is not None}
        return {**found, "general loss before": self.general.before, "general loss after": self.general.after}


def measure_edits(
    pair: Pair,
    facts: str | Path | Sequence[Fact | Mapping[str, Any]],
    *,
    general: str | Path | Sequence[str] = forgetting.DEFAULT,
) -> EditReport:
    """Measure a pair whose top delta holds edits against the model without it.

    Args:
        facts: the edits, as `edit` takes them.
        general: general text: a file, `demo:<name>`, or texts.

    Raises `InputError` for a pair without a language-model head or without a delta, and as `Facts.read`.
    """
    facts = Facts.read(facts)
    if pair.base.family != "causal" or "tokens" not in pair.views:
        raise InputError(f"{pair.base.source}: edits are measured by what a causal language model writes")
    made = pair.top.record.get("training") or {}
    task = forgetting.general_task(general, GENERAL_TEXTS)
    stay = [text for fact in facts for text in (fact.prompt, *fact.locality)]
    asked = [*stay, *(text for fact in facts for text in fact.rephrases)]
    with Steps("measure", 4) as step:
        with pair.reference():
            step("answers before")
            before = answers(pair, stay)
            step("general text before")
            general_before = _general(pair, task)
        step("answers after")
        after = answers(pair, asked)
        losses = edit_losses(pair, facts)
        step("general text after")
        general_after = _general(pair, task)
    outcomes = _outcomes(facts, before, after, losses)
    right = [one.prompt.right for one in outcomes]
    reliability = Share.count(right)
    already = Share.count([_is(before[fact.prompt], fact.target) for fact in facts])
    assert reliability is not None and already is not None  # there are no facts files without facts
    return EditReport(
        base=pair.base.source,
        made={name: value for name, value in made.items() if name not in ("identity", "losses")},
        reliability=reliability,
        already=already,
        generalisation=Share.count([said.right for one in outcomes for said in one.rephrases]),
        locality=Share.count([said.right for one in outcomes for said in one.locality]),
        general=Ability.of(task.name, general_before, general_after),
        losses=np.histogram(losses, [0.0, *BOUNDS, np.inf])[0].tolist(),
        positions=_positions(right),
        conflicts=[conflict.said(facts) for conflict in facts.conflicts()],
        edits=outcomes,
    )


def answers(pair: Pair, prompts: Sequence[str]) -> dict[str, str]:
    """What the side of a pair that is on writes behind each prompt, uncut; each prompt is asked once."""
    unique = list(dict.fromkeys(prompts))
    most = longest_input(pair.base)
    ids = FactTokens(pair.tokenizer, most).prompts(unique)
    pad = Collator(pair.tokenizer, pair.base.family).pad_id
    plan, _ = batches([len(one) for one in ids], WRITING)
    found: dict[str, str] = {}
    for rows in plan:
        chosen = [ids[i] for i in rows]
        written = greedy(pair, chosen, min(NEW_TOKENS, most - max(map(len, chosen))), pad)
        texts = pair.tokenizer.batch_decode(written, skip_special_tokens=True)
        found.update(zip((unique[i] for i in rows), texts, strict=True))
    return found


def edit_losses(pair: Pair, facts: Facts) -> np.ndarray:
    """[N] mean −log p of each edit's target tokens, its end token included, in nats."""
    rows = [
        {"input_ids": prompt + target, "labels": [IGNORED] * len(prompt) + target}
        for prompt, target in FactTokens(pair.tokenizer, longest_input(pair.base)).pairs(facts)
    ]
    collate = Collator(pair.tokenizer, pair.base.family)
    plan, order = batches([len(row["input_ids"]) for row in rows], tokens_a_batch(pair.base.device))
    flat: list[float] = []
    for numbers in plan:
        batch = {name: tensor.to(pair.base.device) for name, tensor in collate([rows[i] for i in numbers]).items()}
        values, mask = log_probs(pair, batch)
        flat += (-values.double().sum(-1) / mask.sum(-1)).tolist()
    return np.array([flat[place] for place in order])


def cut(text: str, stops: int = 0) -> str:
    """The answer in what was written: up to the first line break, and the first full stop after `stops` others."""
    return ".".join(text.split("\n", 1)[0].split(".")[: stops + 1]).strip()


def _is(said: str, target: str) -> bool:
    return normalised(cut(said, target.count("."))) == normalised(target)


def _outcomes(facts: Facts, before: Mapping[str, str], after: Mapping[str, str], losses: np.ndarray) -> list[Outcome]:
    def reached(text: str, target: str) -> Said:
        return Said(text, cut(after[text], target.count(".")), _is(after[text], target))

    def kept(text: str) -> Said:
        now, then = cut(after[text]), cut(before[text])
        return Said(text, now, normalised(now) == normalised(then), then)

    return [
        Outcome(
            fact.place,
            fact.target,
            reached(fact.prompt, fact.target),
            [reached(text, fact.target) for text in fact.rephrases],
            [kept(text) for text in fact.locality],
            float(loss),
        )
        for fact, loss in zip(facts, losses, strict=True)
    ]


def _general(pair: Pair, task: Any) -> np.ndarray:
    """[texts] loss a token of each paragraph, of the side that is on."""
    losses, counts = predict.token_losses(Reader(pair, task), task.split("test"))
    return losses / np.maximum(counts, 1)


def _positions(right: Sequence[bool]) -> list[tuple[int, int, float]]:
    parts = np.array_split(np.arange(len(right)), min(PARTS, len(right)))
    return [(int(part[0]), int(part[-1]), float(np.mean([right[i] for i in part]))) for part in parts]
