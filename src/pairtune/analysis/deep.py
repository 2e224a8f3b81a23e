"""What changed from base to variant, with the slower questions that `inspect` asks one by one as further sections."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pairtune.analysis.diff import Diff
from pairtune.analysis.knowledge import measure_knowledge
from pairtune.analysis.memorisation import measure_memorisation
from pairtune.analysis.ntk import ntk
from pairtune.analysis.report import Document, Note, Report, Section
from pairtune.errors import DataError, PairtuneError

if TYPE_CHECKING:
    from pairtune.data.canaries import Canary
    from pairtune.data.knowledge import Questions
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair

log = logging.getLogger("pairtune")
# Passages of a short row: as many tokens are given and must follow as a short text has.
SHORT_PASSAGE = 10


@dataclass(frozen=True)
class Deep(Report):
    """A `Diff` and what was asked beside it.

    Attributes:
        diff: what changed. parts: question → its report. skipped: question → why it was not asked.
    """

    schema: ClassVar[str] = "pairtune.deep/1"
    diff: Diff
    parts: dict[str, Report]
    skipped: dict[str, str]

    def document(self) -> Document:
        """The diff's own sections, then those of each question; what it would say a second time is left out."""
        first = self.diff.document()
        seen = {section.name for section in first.sections}
        asked = [section for part in self.parts.values() for section in part.document().sections]
        sections = [*first.sections, *(section for section in asked if section.name not in seen)]
        if self.skipped:
            notes = [Note(f"{name}: {why}.", missing=True) for name, why in self.skipped.items()]
            sections.append(Section("not-asked", "Not asked", "", notes))
        return Document(first.title, first.facts, first.figures, sections)


def deepened(
    found: Diff,
    pair: Pair,
    task: Task | None,
    questions: Questions | None = None,
    canaries: Sequence[Canary] = (),
) -> Deep:
    """Ask a pair the slower questions that its task and data allow; what cannot be asked says why.

    Args:
        found: what `diff` found of this pair.
        questions: about the facts that it was tuned on (`data.knowledge`). canaries: that stand in its training rows.
    """
    parts: dict[str, Report] = {}
    skipped: dict[str, str] = {}

    def ask(name: str, question: Callable[[], Report]) -> None:
        log.info("deep: %s", name)
        try:
            parts[name] = question()
        except PairtuneError as error:
            skipped[name] = str(error).splitlines()[0].rstrip(".")

    if questions is not None:
        ask("knowledge", lambda: measure_knowledge(pair, questions))
    else:
        skipped["knowledge"] = "no --questions about the facts that it was tuned on are given"
    if task is None:
        skipped |= dict.fromkeys(("memorisation", "ntk"), "no task is given")
        return Deep(found, parts, skipped)
    ask("memorisation", lambda: _remembered(pair, task, canaries))
    ask("ntk", lambda: ntk(pair, task))
    return Deep(found, parts, skipped)


def _remembered(pair: Pair, task: Task, canaries: Sequence[Canary]) -> Report:
    """With passages of the paper's length where there are rows of it, else of short ones."""
    try:
        return measure_memorisation(pair, task, canaries=canaries)
    except DataError:
        return measure_memorisation(pair, task, prompt=SHORT_PASSAGE, suffix=SHORT_PASSAGE, canaries=canaries)
