"""How ranked bases are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pairtune.analysis.report import Block, Cell, Document, Note, Section, Table

if TYPE_CHECKING:
    from pairtune.analysis.transferability.rank import Transferability

MEANINGS = {
    "mean rank": "Over all scores; 1 is the best by every one of them.",
    "first in halves": "In how many random halves of the rows the base has the best mean rank: how far the order is "
    "the rows' doing.",
    "linear probe": "Accuracy (of numbers: R²) of a linear model of the features on rows that it was not fitted on, "
    "three folds. The plainest score, and the only one that is a performance.",
    "logme": "How probable the targets are under a linear model of the features, for each row and target, in nats.",
    "h-score": "How much of the features' variance the classes explain.",
    "transrate": "Nats by which knowing the class shortens the features' code.",
    "gbc": "Overlap of the classes as Gaussians, negative: 0 is none.",
    "parc": "Whether rows that are alike in features are alike in targets: 100 times a rank correlation.",
    "n-leep": "How well clusters of the features say the class, in nats: 0 is perfectly.",
    "leep": "How well the base's own classes say the task's, in nats: 0 is perfectly.",
    "nce": "The same by the base's most probable class alone.",
    "etran": "Energy of the features and fit of the targets, each from 0 to 1 over these bases, added.",
    "template, without trend": "How concentrated the features are and how much of the first block's geometry is left "
    "in the last, each from 0 to 1 over these bases, added; needs no targets.",
}


def document(found: Transferability) -> Document:
    """The report."""
    facts = [("task", found.task), ("rows", f"{found.rows:,}"), ("bases", f"{len(found.candidates):,}")]
    return Document(f"Which base to tune for {found.task}", facts, [], [_section(found)])


def _section(found: Transferability) -> Section:
    metrics = list(next(iter(found.candidates.values())).scores)
    head = ("base", "mean rank", "first in halves", "parameters", "width")
    rows = [
        (
            name,
            Cell(f"{one.mean_rank:.2f}", 1 - (one.mean_rank - 1) / max(1, len(found.candidates) - 1)),
            f"{one.first} of {found.halves}",
            f"{one.parameters / 1e6:,.1f} M",
            f"{one.width:,}",
        )
        for name, one in found.candidates.items()
    ]
    scores = [
        (metric, *(f"{one.scores[metric]:.3f} ({one.ranks[metric]:g})" for one in found.candidates.values()))
        for metric in metrics
    ]
    blocks: list[Block] = [
        Table("By the mean of the ranks", head, rows, numeric=(1, 2, 3, 4)),
        Table("Scores, higher is better (ranks)", ("score", *found.candidates), scores,
              numeric=range(1, len(found.candidates) + 1)),
    ]  # fmt: skip
    for metric, why in found.lacking.items():
        blocks.append(Note(f"No {metric}: {why}.", missing=True))
    meanings = {name: words for name, words in MEANINGS.items() if name in (*metrics, "mean rank", "first in halves")}
    return Section("ranking", "Bases in order", _lead(found), blocks, meanings)


def _lead(found: Transferability) -> str:
    best, one = next(iter(found.candidates.items()))
    largest = max(found.candidates, key=lambda name: found.candidates[name].parameters)
    said = f"{best} comes first: mean rank {one.mean_rank:.2f}, first in {one.first} of {found.halves} halves of rows."
    if one.first < 0.9 * found.halves:
        said += " The order depends on the rows."
    said += " It is the largest as well." if largest == best else f" The largest is {largest}."
    return said
