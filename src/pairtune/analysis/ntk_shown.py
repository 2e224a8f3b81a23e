"""How the tangent kernels are shown: layers by condition, sets as they grow, and how linear a pair's change is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pairtune.analysis.report import Block, Cell, Document, Note, Section, Table

if TYPE_CHECKING:
    from pairtune.analysis.linearity import Linearity
    from pairtune.analysis.ntk import NTK

MEANINGS = {
    "condition": "Largest over smallest eigenvalue of the layer's kernel over the rows: smaller promises that all "
    "directions of answers are learnt at a similar pace. It depends on the number of rows.",
    "effective rank": "Over how many directions of answers the kernel is spread, from 1 to the number of rows.",
    "alignment": "How far the kernel agrees with the targets, 0 to 1: what it learns first is what is asked for.",
    "share": "Of the sum of all eigenvalues: how much of a step's change of the answers is this layer's.",
    "bound": "The most that the condition could have become by adding the layer, known from the two parts alone.",
    "error": "Distance between the variant's answers and the linear model's, as a share of how far they moved: near 0 "
    "the change acts linearly, from about 1 on the linear view says nothing.",
}


def document(found: NTK) -> Document:
    """The report of `inspect ntk`."""
    facts = [("base", found.base), ("task", found.task), ("rows", f"{found.rows:,}"), ("outputs", f"{found.outputs:,}")]
    sections = [_layers(found), _sets(found)]
    if found.moved is not None:
        sections.append(_moved(found.moved))
    return Document(f"Tangent kernels of {found.base}", facts, [], sections)


def _layers(found: NTK) -> Section:
    aligned = found.together.alignment is not None
    head = ["layer", "weights", "condition", "effective rank", *(["alignment"] if aligned else []), "share"]
    rows: list[list[str | Cell]] = []
    for name, one in found.layers.items():
        more = [_number(one.facts.alignment, 3)] if aligned else []
        own = [f"{one.weights:,}", f"{one.facts.condition:.3g}", f"{one.facts.effective_rank:.1f}", *more]
        rows.append([name, *own, Cell(f"{one.share:.0%}", share=one.share)])
    whole = found.together
    more = [_number(whole.alignment, 3)] if aligned else []
    count = sum(one.weights for one in found.layers.values())
    rows.append(["all", f"{count:,}", f"{whole.condition:.3g}", f"{whole.effective_rank:.1f}", *more, "100%"])
    blocks: list[Block] = [Table("Layers, the best conditioned first", head, rows, numeric=range(1, len(head)))]
    if found.new_head:
        blocks.append(Note("The head is new: its random values enter every kernel, and with them the order."))
    if found.left_out:
        blocks.append(Note(f"Not in the kernels: what {', '.join(found.left_out)} hold in the layers.", missing=True))
    best = next(iter(found.layers))
    lead = f"By itself, layer {best} has the best conditioned kernel."
    meanings = {name: words for name, words in MEANINGS.items() if name in head}
    return Section("layers", "Which layers to tune", lead, blocks, meanings)


def _sets(found: NTK) -> Section:
    lowest = min(range(len(found.chosen)), key=lambda i: found.chosen[i].condition)
    names = ", ".join(step.layer for step in found.chosen[: lowest + 1])
    rows = [
        [f"{i + 1}", f"+ {step.layer}", f"{step.condition:.3g}", "" if step.bound is None else f"{step.bound:.3g}"]
        for i, step in enumerate(found.chosen)
    ]
    table = Table("Layers added one by one", ["layers", "added", "condition", "bound"], rows, numeric=(0, 2, 3))
    lead = f"The set with the lowest condition has {lowest + 1} of {len(rows)}: {names}."
    return Section("sets", "Which layers together", lead, [table], {"bound": MEANINGS["bound"]})


def _moved(found: Linearity) -> Section:
    rows = [[f"{alpha:g}", f"{error:.3f}"] for alpha, error in found.error.items()]
    table = Table("Along base + alpha · delta", ["alpha", "error"], rows, numeric=(0, 1))
    at_end = found.error[max(found.error)]
    how = (
        "acts nearly as a linear model's"
        if at_end < 0.1
        else "is beyond what is linear"
        if at_end > 0.5
        else "is partly linear"
    )
    lead = f"The pair's change, {found.share:.2%} of the weights that it moves, {how} (error {at_end:.2f})."
    return Section("moved", "How linear the pair's change is", lead, [table], {"error": MEANINGS["error"]})


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
