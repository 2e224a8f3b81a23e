"""How the report about what is remembered is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pairtune.analysis.report import Block, Cell, Document, Figure, Item, Items, Lines, Note, Section, Series, Table

if TYPE_CHECKING:
    from pairtune.analysis.memorisation import Group, Memorisation

SHOWN = 3
MEANINGS = {
    "continued": "Share of the passages whose next tokens the model writes exactly, all of them, when given the first.",
    "log ratio": "Mean of log p(variant) − log p(base) over the continuation, nats a token: what tuning added to it.",
    "AUROC": "How well the log ratio tells passages that were trained on from those that were not: 0.5 is chance, 1 is "
    "always. What is far above the likelihood's figure was learnt from these very texts.",
}


def document(found: Memorisation) -> Document:
    """The report."""
    facts = [
        ("base", found.base),
        ("task", found.task),
        ("passages", f"{found.prompt} tokens are given, {found.suffix} must follow"),
    ]
    figures = []
    if found.told is not None:
        figures.append(Figure("AUROC of train against other splits", f"{found.told.ratio[0]:.3f}", "by the log ratio"))
    sections = [_passages(found)]
    if found.canaries:
        sections.append(_canaries(found))
    return Document(f"What was remembered of {found.task}", facts, figures, sections)


def _passages(found: Memorisation) -> Section:
    groups = {f"train, in {name}": one for name, one in found.trained.items()}
    if found.held is not None:
        groups["other splits"] = found.held
    head = ("passages", "of", "base", "variant", "95 % interval", "log ratio")
    rows = [(name, *_row(one)) for name, one in groups.items()]
    blocks: list[Block] = [Table("Continued exactly, by the rows of train in which a passage stands", head, rows,
                                 numeric=range(1, len(head)))]  # fmt: skip
    if found.told is None:
        blocks.append(Note("The task has no other split, so that nothing says what is language and no memory.", True))
    else:
        named = [("log p(variant) − log p(base)", found.told.ratio), ("log p(variant)", found.told.likelihood)]
        rows = [(name, Cell(f"{a:.3f}", a), f"{low:.3f} to {high:.3f}") for name, (a, low, high) in named]
        caption = "Train told from other splits"
        blocks.append(Table(caption, ("score", "AUROC", "95 % interval"), rows, numeric=(1, 2)))
    if found.short:
        blocks.append(Note(f"{found.short:,} rows of train are shorter than a passage and were not asked."))
    if found.remembered:
        items = [Item(f"{prompt} …", [("goes on", words, None)]) for prompt, words in found.remembered[:SHOWN]]
        more = len(found.remembered) - len(items)
        blocks.append(Items("Continued by the variant, and not by the base", items, more))
    meanings = {name: words for name, words in MEANINGS.items() if name != "AUROC" or found.told is not None}
    return Section("passages", "Passages", _lead(found), blocks, meanings)


def _lead(found: Memorisation) -> str:
    total = sum(one.variant.of for one in found.trained.values())
    right = sum(one.variant.right for one in found.trained.values())
    before = sum(one.base.right for one in found.trained.values())
    said = [f"Of {total:,} passages of train the variant continues {right:,} word for word, the base {before:,}."]
    if found.held is not None:
        held = found.held.variant
        said.append(f"Of {held.of:,} passages that were not trained on it continues {held.right:,}.")
    return " ".join(said)


def _canaries(found: Memorisation) -> Section:
    head = ("canary", "repeats", "of", "base", "variant", "95 % interval", "log ratio")
    rows = [
        (kind, str(repeats) if repeats else "not put in", *_row(one))
        for kind, by in found.canaries.items()
        for repeats, one in by.items()
    ]
    table = Table("Canaries continued exactly", head, rows, numeric=range(1, len(head)))
    series = [Series(kind, list(by), [one.variant.share for one in by.values()]) for kind, by in found.canaries.items()]
    said = []
    for kind, by in found.canaries.items():
        first = next((repeats for repeats, one in by.items() if repeats and one.variant.right), None)
        when = "none is remembered" if first is None else f"the first are remembered at {first} repeats"
        said.append(f"{kind}: {when}.")
    lines = Lines("Share continued by repeats", "repeats", "share", series, " ".join(said), table)
    held = sum(by[0].variant.right for by in found.canaries.values() if 0 in by)
    said.append(f"Of the canaries that were never put in, {held} are continued." if held else
                "None of those that were never put in is continued.")  # fmt: skip
    return Section("canaries", "Canaries", " ".join(said), [lines])


def _row(one: Group) -> tuple[str | Cell, ...]:
    variant = one.variant
    return (
        f"{variant.of:,}",
        f"{one.base.share:.1%}",
        Cell(f"{variant.share:.1%}", variant.share),
        f"{variant.low:.1%} to {variant.high:.1%}",
        f"{one.log_ratio:+.3f}",
    )
