"""What a variant learnt of the facts it was tuned on: the sentences, or the facts.

After Wu, Wu and Zou, "FineTuneBench", arXiv 2411.05059: ask base and variant the training questions, the same in other
words, questions whose answers follow from a fact, and questions that should not be answered, greedily, at most 100
tokens. Facts that the base already has, and changes of facts that it never had, say nothing about tuning; they are left
out and counted.

An answer is right where the wanted words stand in it (the paper's exact match reads 0 where a model answers in a
sentence; both are given). Questions of yes or no are judged by balanced accuracy, the mean of the shares right among
those with yes and those with no: whoever always says one of them gets one half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pairtune.analysis import forgetting
from pairtune.analysis.progress import Steps
from pairtune.analysis.report import Document, Report
from pairtune.analysis.shares import Share
from pairtune.data.facts import normalised
from pairtune.data.knowledge import MEMORISED, NO, PREFIXED, YES, Question, Questions, is_right, says, yes_or_no
from pairtune.errors import DataError
from pairtune.generation.engine import generate
from pairtune.pair.paired import ENDS, RESAMPLES

if TYPE_CHECKING:
    from pairtune.pair.pair import Pair

NEW_TOKENS = 100
GENERAL_TEXTS = 1000
NEW, CHANGED = "new", "changed"


@dataclass(frozen=True)
class Balanced:
    """Mean of the shares right among questions with yes and with no, and its 95 % bootstrap interval.

    Attributes:
        said_yes, said_neither: shares of the answers.
    """

    accuracy: float
    low: float
    high: float
    said_yes: float
    said_neither: float


@dataclass(frozen=True)
class Side:
    """What one model says to the questions of a kind.

    Attributes:
        right: answers in which the wanted words stand. exact: answers that are nothing else.
        balanced: of questions of yes or no. old: of changed facts, answers with what was right before.
    """

    right: Share
    exact: Share
    balanced: Balanced | None
    old: Share | None


@dataclass(frozen=True)
class Kind:
    """The questions of one kind about the facts of one setting.

    Attributes:
        factless: whether they are about no fact of their own, so that the base may answer them, too.
        most_frequent: share of the answer that is right most often; who always gives it has so many right.
    """

    base: Side
    variant: Side
    factless: bool
    most_frequent: float

    @property
    def score(self) -> float:
        """The variant's share right; of yes or no, its balanced accuracy."""
        return self.variant.balanced.accuracy if self.variant.balanced else self.variant.right.share


@dataclass(frozen=True)
class Answered:
    """One question and what base and variant said. `setting` is "" where its fact was left out."""

    question: Question
    setting: str
    base: str
    variant: str


@dataclass(frozen=True)
class Knowledge(Report):
    """What `measure_knowledge` found.

    Attributes:
        base: the base's source. facts: setting ("new", "changed") → number of facts.
        known: facts that the base answers rightly already. not_held: changed facts whose old answer it does not give.
        settings: setting → kind → both models' answers.
        general: loss on general text before and after, or why there is none.
        answers: every question with both answers.
    """

    schema: ClassVar[str] = "pairtune.knowledge/1"
    base: str
    facts: dict[str, int]
    known: int
    not_held: int
    settings: dict[str, dict[str, Kind]]
    general: forgetting.General | str
    answers: list[Answered]

    def generalisation(self, setting: str) -> float | None:
        """Mean score of the kinds that ask for a fact in another way than the training did."""
        plain = (MEMORISED, PREFIXED)
        scores = [
            one.score for name, one in self.settings[setting].items() if name not in plain and not one.factless
        ]  # fmt: skip
        return float(np.mean(scores)) if scores else None

    def document(self) -> Document:
        """The report as a page or on the terminal."""
        from pairtune.analysis.knowledge_shown import document

        return document(self)


def measure_knowledge(
    pair: Pair,
    questions: str | Path | Sequence[Question | Mapping[str, Any]],
    *,
    general: str | Path | Sequence[str] = forgetting.DEFAULT,
) -> Knowledge:
    """Ask a base and its variant the questions.

    Args:
        questions: a file or rows as `data.knowledge` has them; `data.knowledge_made` makes them from a table of facts.
            They are laid out as the pair's own prompts are (`generation.prompts`).
        general: general text for what learning them cost: a file, `demo:<name>`, or texts.

    Raises `MissingView` for a model that writes no text, `DataError` as `Questions.read`, and where no fact is left
    that tuning could have taught.
    """
    questions = Questions.read(questions)
    general_task = forgetting.general_task(general, GENERAL_TEXTS)
    prompts = [one.prompt for one in questions]
    with Steps("ask", 4) as step:
        step("the base")
        with pair.off():
            before = written(pair, prompts)
        step("the variant")
        after = written(pair, prompts)
        found, _ = forgetting.general_text({"variant": pair}, general_task, step)
    setting, known, not_held = _settings(questions, before)
    answers = [
        Answered(one, setting.get(one.fact, ""), base, variant)
        for one, base, variant in zip(questions, before, after, strict=True)
    ]
    facts = {name: sum(1 for one in setting.values() if one == name) for name in (NEW, CHANGED)}
    facts = {name: count for name, count in facts.items() if count}
    if not facts:
        raise DataError(
            f"none of the facts can tell anything: the base answers {known} of them rightly already, and does not give "
            f"the old answer to {not_held} that changed"
        )
    settings = {name: _kinds(questions, answers, name) for name in facts}
    return Knowledge(pair.base.source, facts, known, not_held, settings, found, answers)


def written(pair: Pair, prompts: Sequence[str], new_tokens: int = NEW_TOKENS) -> list[str]:
    """What the side that is on answers to each, greedily, at most so many tokens; equal prompts are asked once."""
    unique = list(dict.fromkeys(prompts))
    found = dict(zip(unique, generate(pair, unique, max_new_tokens=new_tokens), strict=True))
    return [found[one].strip() for one in prompts]


def _settings(questions: Questions, before: Sequence[str]) -> tuple[dict[str, str], int, int]:
    """Fact → "new" or "changed", of those that tell something; how many the base knows, and does not hold."""
    found, known, not_held = {}, 0, 0
    for one, said in zip(questions, before, strict=True):
        if one.kind != MEMORISED:
            continue
        if one.before is not None and says(said, one.before):
            found[one.fact] = CHANGED
        elif one.before is not None:
            not_held += 1
        elif is_right(said, one):
            known += 1
        else:
            found[one.fact] = NEW
    return found, known, not_held


def _kinds(questions: Questions, answers: Sequence[Answered], setting: str) -> dict[str, Kind]:
    """Kind → what both say to its questions about this setting's facts, and to those about no fact."""
    found = {}
    for kind in questions.kinds:
        of_kind = [one for one in answers if one.question.kind == kind]
        here = [one for one in of_kind if one.setting == setting or not one.question.fact]
        if not here:
            continue
        wanted = [normalised(one.question.answer) for one in here]
        most = max(wanted.count(one) for one in set(wanted)) / len(wanted)
        base, variant = _side(here, [one.base for one in here]), _side(here, [one.variant for one in here])
        found[kind] = Kind(base, variant, not any(one.question.fact for one in here), most)
    return found


def _side(here: Sequence[Answered], said: Sequence[str]) -> Side:
    asked = [one.question for one in here]
    right = [is_right(text, one) for text, one in zip(said, asked, strict=True)]
    exact = [is_right(text, one, exact=True) for text, one in zip(said, asked, strict=True)]
    old = [says(text, one.before) for text, one in zip(said, asked, strict=True) if one.before is not None]
    both, each = Share.count(right), Share.count(exact)
    assert both is not None and each is not None  # a kind without questions is not asked
    return Side(both, each, _balanced(asked, said, right), Share.count(old))


def _balanced(asked: Sequence[Question], said: Sequence[str], right: Sequence[bool]) -> Balanced | None:
    """None where some are not answered by yes or no, or all by the same."""
    wanted = np.array([normalised(one.answer) for one in asked])
    if set(wanted) != {YES, NO}:
        return None
    groups = [np.array(right, dtype=float)[wanted == answer] for answer in (YES, NO)]
    generator = np.random.default_rng(0)
    drawn = np.mean(
        [group[generator.integers(0, len(group), (RESAMPLES, len(group)))].mean(1) for group in groups], axis=0
    )
    low, high = np.quantile(drawn, ENDS)
    words = [yes_or_no(text) for text in said]
    shares = (words.count(YES) / len(words), words.count(None) / len(words))
    return Balanced(float(np.mean([group.mean() for group in groups])), float(low), float(high), *shares)
