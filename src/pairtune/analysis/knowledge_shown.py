"""How the report about what was learnt is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pairtune.analysis.forgetting import Forgetting, section
from pairtune.analysis.report import Block, Cell, Document, Figure, Item, Items, Note, Section, Table
from pairtune.data.knowledge import MEMORISED, PREFIXED, is_right

if TYPE_CHECKING:
    from pairtune.analysis.knowledge import Answered, Kind, Knowledge, Side

SHOWN = 5  # facts that are known in the training's words alone
SETTINGS = {"new": "New facts", "changed": "Changed facts"}
MEANINGS = {
    "right": "Share of the answers in which the wanted words stand as whole words, case, punctuation and articles "
    "aside; of yes or no, the first of the two that is said.",
    "exact": "Share of the answers that are the wanted words and nothing else.",
    "balanced": "Of questions of yes or no: the mean of the shares right among those with yes and those with no. "
    "Whoever knows nothing gets 50 %, also where one answer is right more often.",
    "generalisation": "Mean of the kinds that ask for a fact in another way than the training did: their share right, "
    "or balanced accuracy. The training question, alone or with words around it, is not among them.",
    "old answer": "Share of the answers with what was right before the fact changed.",
}


def document(found: Knowledge) -> Document:
    """The report."""
    facts = [("base", found.base), *((f"{name} facts", f"{count:,}") for name, count in found.facts.items())]
    if found.known:
        facts.append(("left out", f"{found.known:,} facts that the base has already"))
    if found.not_held:
        facts.append(("left out", f"{found.not_held:,} changed facts whose old answer the base does not give"))
    sections = [_section(found, setting) for setting in found.settings]
    general = found.general
    forgot = Forgetting(None, general) if isinstance(general, str) else Forgetting(general)
    return Document(f"What was learnt on {found.base}", facts, _figures(found), [*sections, section(forgot)])


def _figures(found: Knowledge) -> list[Figure]:
    figures = []
    for setting, kinds in found.settings.items():
        one = kinds[MEMORISED].variant.right
        figures.append(Figure(f"{setting}, as taught", f"{one.share:.1%}", f"{one.right:,} of {one.of:,}"))
        score = found.generalisation(setting)
        if score is not None:
            figures.append(Figure(f"{setting}, otherwise", f"{score:.1%}", "mean over the other kinds"))
    return figures


def _section(found: Knowledge, setting: str) -> Section:
    kinds = found.settings[setting]
    blocks: list[Block] = [_answers(kinds)]
    if any(one.variant.balanced for one in kinds.values()):
        blocks.append(_balanced(kinds))
    if kinds[MEMORISED].variant.old is not None:
        blocks.append(_old(kinds))
    stuck = _stuck(found, setting)
    if stuck:
        items = [
            Item(taught.question.prompt, [("says", taught.variant, "good"), ("asked", other.question.prompt, None),
                                          ("says", other.variant or "nothing", "bad")])
            for taught, other in stuck[:SHOWN]
        ]  # fmt: skip
        blocks.append(Items("Known in the training's words alone", items, len(stuck) - len(items)))
    absent = {
        "balanced": not any(one.variant.balanced for one in kinds.values()),
        "generalisation": found.generalisation(setting) is None,
        "old answer": kinds[MEMORISED].variant.old is None,
    }
    meanings = {name: words for name, words in MEANINGS.items() if not absent.get(name)}
    if PREFIXED in kinds:
        blocks.append(Note(f"{PREFIXED}: the training question with the words that other questions end with, as a "
                           "control of what these words alone change."))  # fmt: skip
    return Section(setting, SETTINGS[setting], _lead(found, setting), blocks, meanings)


def _lead(found: Knowledge, setting: str) -> str:
    kinds, count = found.settings[setting], found.facts[setting]
    said = [f"Of {count:,} {setting} facts it says {kinds[MEMORISED].variant.right.share:.0%} when asked as taught."]
    for name, one in kinds.items():
        if name in (MEMORISED, PREFIXED):
            continue
        right, balanced = one.variant.right.share, one.variant.balanced
        if one.factless:
            before = f"the base in {1 - one.base.right.share:.0%}"
            said.append(f"Where there is nothing to know ({name}) it says something in {1 - right:.0%} ({before}).")
        elif balanced is None:
            said.append(f"{name}: {right:.0%}.")
        elif balanced.said_neither > 0.5:
            said.append(f"{name}: it says neither yes nor no to {balanced.said_neither:.0%} of the questions.")
        else:
            word = "more than" if balanced.low > 0.5 else "not clearly more than"
            said.append(f"{name}: {balanced.accuracy:.0%} balanced accuracy, {word} guessing gets (50 %).")
    return " ".join(said)


def _answers(kinds: dict[str, Kind]) -> Table:
    rows = [
        (name, f"{one.variant.right.of:,}", *_shares(one.base), *_shares(one.variant, interval=True))
        for name, one in kinds.items()
    ]
    head = ("questions", "asked", "base right", "base exact", "variant right", "95 % interval", "variant exact")
    return Table("Answers, written greedily", head, rows, numeric=range(1, len(head)))


def _shares(side: Side, interval: bool = False) -> list[str | Cell]:
    right, exact = side.right, f"{side.exact.share:.1%}"
    if not interval:
        return [f"{right.share:.1%}", exact]
    return [Cell(f"{right.share:.1%}", right.share), f"{right.low:.1%} to {right.high:.1%}", exact]


def _balanced(kinds: dict[str, Kind]) -> Table:
    rows = []
    for name, one in kinds.items():
        base, variant = one.base.balanced, one.variant.balanced
        if base is None or variant is None:
            continue
        tone = "good" if variant.low > 0.5 else "quiet"
        rows.append((
            name, f"{base.accuracy:.1%}", Cell(f"{variant.accuracy:.1%}", variant.accuracy, tone),
            f"{variant.low:.1%} to {variant.high:.1%}", f"{variant.said_yes:.1%}", f"{variant.said_neither:.1%}",
            f"{one.most_frequent:.1%}",
        ))  # fmt: skip
    head = ("questions", "base", "variant", "95 % interval", "says yes", "neither", "always one answer gets")
    return Table("Questions of yes or no: balanced accuracy", head, rows, numeric=range(1, len(head)))


def _old(kinds: dict[str, Kind]) -> Table:
    rows = [
        (name, f"{one.base.old.share:.1%}", Cell(f"{one.variant.old.share:.1%}", one.variant.old.share))
        for name, one in kinds.items()
        if one.base.old is not None and one.variant.old is not None
    ]
    return Table("Answers with what was right before", ("questions", "base", "variant"), rows, numeric=(1, 2))


def _stuck(found: Knowledge, setting: str) -> list[tuple[Answered, Answered]]:
    """Facts that are said in the training's words, and another question about each that asks for the same words."""
    taught = {
        one.question.fact: one
        for one in found.answers
        if one.setting == setting and one.question.kind == MEMORISED and is_right(one.variant, one.question)
    }
    stuck: dict[str, tuple[Answered, Answered]] = {}
    for one in found.answers:
        first = taught.get(one.question.fact)
        same = first is not None and one is not first and one.question.answer == first.question.answer
        if first is not None and same and one.question.kind != PREFIXED and not is_right(one.variant, one.question):
            stuck.setdefault(one.question.fact, (first, one))
    return list(stuck.values())
