"""How measured edits are shown."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from pairtune.analysis.report import Block, Cell, Document, Figure, Item, Items, Lines, Note, Section, Series, Table

if TYPE_CHECKING:
    from pairtune.analysis.edits import EditReport, Share

FAILED = 5  # edits that did not take, shown
MEANINGS = {
    "reliability": "Share of the prompts whose answer is the new target: written freely, cut at the first full stop, "
    "compared without case, punctuation and articles.",
    "generalisation": "The same of the rephrases, which were not trained on.",
    "locality": "Share of the unrelated prompts whose whole answer is what it was before.",
    "loss of the edits": "Mean −log p of the target's tokens; below 0.01 a batch counts as learnt and takes no more "
    "steps, so that one hard edit keeps its whole batch going.",
}


def document(found: EditReport) -> Document:
    """The report of some edits."""
    made = found.made
    place = f" at {made['at']}" if made.get("at") else ""
    facts = [("base", found.base), ("edits", f"{len(found.edits):,}")]
    if made.get("method"):
        facts.append(("method", f"{made['method']}{place}, rate {made['lr']:g}, {made['batch_size']} a step"))
        facts.append(("work", f"{made['steps']:,} steps, {made['updates']:,} updates, {made['seconds']:.1f} s"))
        facts.append(("ended", made["ended"]))
    return Document(f"{len(found.edits):,} edits of {found.base}", facts, _figures(found), [_section(found)])


def _figures(found: EditReport) -> list[Figure]:
    shares = [
        ("reliability", found.reliability),
        ("generalisation", found.generalisation),
        ("locality", found.locality),
    ]
    return [Figure(name, f"{one.share:.1%}", f"{one.right:,} of {one.of:,}") for name, one in shares if one is not None]


def _section(found: EditReport) -> Section:
    blocks: list[Block] = [_shares(found)]
    lacking = [name for name, one in (("rephrase", found.generalisation), ("locality", found.locality)) if one is None]
    if lacking:
        blocks.append(Note(f"Not measured, as no edit has it: {', '.join(lacking)}.", missing=True))
    blocks += [_general(found), _losses(found), _positions(found)]
    failed = [one for one in found.edits if not one.prompt.right]
    if failed:
        items = [
            Item(one.prompt.prompt, [("target", one.target, None), ("said", one.prompt.said or "nothing", "bad"),
                                     ("loss", f"{one.loss:.2f}", None)])
            for one in failed[:FAILED]
        ]  # fmt: skip
        blocks.append(Items("Edits that did not take", items, len(failed) - len(items)))
    if found.conflicts:
        more = len(found.conflicts) - FAILED
        rows = [(words,) for words in found.conflicts[:FAILED]]
        blocks.append(Table("Edits that cannot all hold", ("conflict",), rows, more=max(more, 0)))
    meanings = {name: words for name, words in MEANINGS.items() if getattr(found, name, True) is not None}
    return Section("edits", "What the edits did", _lead(found), blocks, meanings)


def _lead(found: EditReport) -> str:
    share, general = found.reliability, found.general
    said = [f"{share.right:,} of {share.of:,} edits hold ({share.share:.1%}); {found.already.right:,} did before."]
    if found.locality is not None:
        lost = found.locality.of - found.locality.right
        said.append(f"Of {found.locality.of:,} answers that should stay, {lost:,} changed.")
    change = general.change
    if change.clear:
        word = "rises" if change.mean > 0 else "falls"
        ends = f"95 % interval of the difference {change.low:+.3f} to {change.high:+.3f}"
        said.append(f"The loss on general text {word} from {general.before:.3f} to {general.after:.3f} ({ends}).")
    else:
        said.append(f"The loss on general text shows no clear change ({general.before:.3f} to {general.after:.3f}).")
    return " ".join(said)


def _shares(found: EditReport) -> Table:
    rows = [_share("reliability", found.reliability), _share("before the edits", found.already)]
    rows += [
        _share(name, one)
        for name, one in (("generalisation", found.generalisation), ("locality", found.locality))
        if one is not None
    ]
    head = ("measure", "right", "of", "share", "95 % interval")
    return Table("Answers, written freely and compared exactly", head, rows, numeric=(1, 2, 3, 4))


def _share(name: str, one: Share) -> tuple[str | Cell, ...]:
    return (
        name,
        f"{one.right:,}",
        f"{one.of:,}",
        Cell(f"{one.share:.1%}", one.share),
        f"{one.low:.1%} to {one.high:.1%}",
    )


def _general(found: EditReport) -> Table:
    one = found.general
    tone = one.change.tone(rising=False) or "quiet"
    row = (f"{one.before:.3f}", f"{one.after:.3f}", Cell(f"{one.change.mean:+.3f}", tone=tone))
    caption = f"Loss on general text, nats a token ({len(one.texts):,} paragraphs of {one.source})"
    return Table(caption, ("before", "after", "change"), [row], numeric=(0, 1, 2))


def _losses(found: EditReport) -> Table:
    from pairtune.analysis.edits import BOUNDS

    names = [f"below {BOUNDS[0]:g} (learnt)"]
    names += [f"{low:g} to {high:g}" for low, high in itertools.pairwise(BOUNDS)]
    names.append(f"{BOUNDS[-1]:g} and above")
    rows = [
        (name, Cell(f"{count:,}", count / len(found.edits))) for name, count in zip(names, found.losses, strict=True)
    ]
    return Table("Loss of the edits, nats a token", ("loss", "edits"), rows, numeric=(1,))


def _positions(found: EditReport) -> Lines:
    parts = found.positions
    rows = [(f"{first + 1:,} to {last + 1:,}", Cell(f"{share:.1%}", share)) for first, last, share in parts]
    table = Table("Reliability by the edit's place in the file", ("edits", "reliability"), rows, numeric=(1,))
    middles = [(first + last) / 2 + 1 for first, last, _ in parts]
    series = [Series("reliability", middles, [share for _, _, share in parts])]
    alt = f"From {parts[0][2]:.0%} in the first part of the file to {parts[-1][2]:.0%} in the last."
    return Lines("Reliability by place", "edit", "reliability", series, alt, table)
