"""What moved: how far each layer's weights went, in how many directions, and in which of their entries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from pairtune.analysis.interference import Interference, between, table
from pairtune.analysis.report import Block, Cell, Lines, Note, Section, Series, Table, titled
from pairtune.analysis.spectrum import Spectrum, share_changed, spectrum
from pairtune.errors import MissingView
from pairtune.pair.tensor_names import layer_of, naming

if TYPE_CHECKING:
    from pairtune.pair.delta import Delta
    from pairtune.pair.pair import Pair

DRAWN = 6  # spectra in a chart, and tensors in the table of those that moved most
MEANINGS = {
    "norm": "The length of the change of all of a layer's weights together (Frobenius norm).",
    "of the base": "That length as a share of the length of the base's own weights, over the tensors that changed.",
    "effective rank": "In how many directions a matrix really moved: the exponential of the entropy of its "
    "normalised singular values (Roy and Vetterli 2007); a layer shows the median of its matrices.",
    "stable rank": "The same question asked of the energy: squared norm by squared largest singular value. A few "
    "strong directions dominate it, so it is the smaller of the two.",
    "changed": "Share of the entries that differ at all from the base's; not asked of a product of thin factors, "
    "which touches every entry.",
    "changed by both": "Entries that both variants change, of the smaller: as a share of those of the variant that "
    "changes fewer. Only there does adding one change what the other learnt; in opposite directions, they undo each "
    "other.",
    "cosine": "Of the angle between the two changes: 0 where they have nothing in common, 1 where they point "
    "the same way.",
    "singular values": "How strongly the change acts along each of its directions, largest first; a steep curve means "
    "that few directions carry it.",
}


@dataclass(frozen=True)
class Moved:
    """One tensor: norms, how its change is stored, and its spectrum (None for vectors)."""

    norm: float
    base_norm: float | None
    relative: float | None
    kind: str
    shape: list[int]
    changed: float | None
    spectrum: Spectrum | None


@dataclass(frozen=True)
class LayerMoved:
    """One layer: norms of its changed tensors together, medians of its matrices' ranks, changed entries' share."""

    norm: float
    relative: float | None
    effective_rank: float | None
    stable_rank: float | None
    full_rank: int | None
    changed: float | None


@dataclass(frozen=True)
class VariantMoved:
    """One delta. `own` names the tensors that exist in the variant alone (a new head, a side network)."""

    total: LayerMoved
    layers: dict[str, LayerMoved]
    tensors: dict[str, Moved]
    own: list[str]


@dataclass(frozen=True)
class Weights:
    """The weights' section: variant → what moved; a stack's deltas stand one by one. `missing`: variant → why not.

    `together`: "<one> + <other>" → how the changes of two variants meet.
    """

    variants: dict[str, VariantMoved]
    missing: dict[str, str] = field(default_factory=dict)
    together: dict[str, Interference] = field(default_factory=dict)


def weights(pairs: Mapping[str, Pair], step: Callable[[str], None] = lambda _: None) -> Weights:
    """Norms, ranks and spectra of every delta, one tensor at a time.

    Args:
        step: told what is looked at now.
    """
    found, deltas = Weights({}), {}
    for name, pair in pairs.items():
        for i, layer in enumerate(pair.layers):
            label = name if len(pair.layers) == 1 else f"{name}, delta {i + 1} of {len(pair.layers)}"
            step(f"weights of {label}")
            try:
                delta = layer.delta()
                found.variants[label] = moved(delta)
                deltas[label] = delta
            except MissingView as error:
                found.missing[label] = str(error)
    found.together.update(between({label: delta for label, delta in deltas.items() if found.variants[label].tensors}))
    return found


def moved(delta: Delta) -> VariantMoved:
    """What one delta moves. Raises `MissingView` for stored values where the delta knows no base."""
    norms = delta.norms()
    tensors: dict[str, Moved] = {}
    layers: dict[str, list[Moved]] = {}
    for name, part in delta.items():
        if part.kind == "module":
            continue
        base = None if delta.base is None else delta.base(name)
        with naming(name):
            one = spectrum(part, base) if len(part.shape) > 1 else None
            changed = share_changed(part, base) if one is None else one.changed
        norm = norms.tensors[name]
        tensors[name] = Moved(norm.absolute, norm.base, norm.relative, part.kind, list(part.shape), changed, one)
        layers.setdefault(layer_of(name), []).append(tensors[name])
    together = {
        name: _together(parts, norms.layers[name].absolute, norms.layers[name].relative)
        for name, parts in layers.items()
    }
    own = [name for name, part in delta.items() if part.kind == "module"]
    total = _together(list(tensors.values()), norms.total.absolute, norms.total.relative)
    return VariantMoved(total, together, tensors, own)


def _together(parts: list[Moved], norm: float, relative: float | None) -> LayerMoved:
    matrices = [part.spectrum for part in parts if part.spectrum is not None]
    sizes = [(_size(part.shape), part.changed) for part in parts]
    entries = sum(size for size, _ in sizes)
    known = entries and all(share is not None for _, share in sizes)
    return LayerMoved(
        norm,
        relative,
        median(one.effective_rank for one in matrices) if matrices else None,
        median(one.stable_rank for one in matrices) if matrices else None,
        int(median(one.full for one in matrices)) if matrices else None,
        sum(size * (share or 0.0) for size, share in sizes) / entries if known else None,
    )


def _size(shape: list[int]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


# -- how it is shown -------------------------------------------------------------------------------------------------


def section(found: Weights) -> Section:
    """The section as sentences, tables and a chart for each variant."""
    blocks: list[Block] = []
    leads = []
    several = len(found.variants) > 1
    for name, one in found.variants.items():
        if one.tensors:
            leads.append(_lead(name, one, several))
            blocks.append(_layers(name, one, several))
            drawn = _spectra(name, one, several)
            blocks += [drawn] if drawn is not None else []
        else:
            leads.append(f"{name} changes none of the base's weights.")
        if one.own:
            few = ", ".join(one.own[:4]) + (f" and {len(one.own) - 4} more" if len(one.own) > 4 else "")
            blocks.append(
                Note(
                    titled(
                        f"{len(one.own)} tensors exist in the variant alone, with no base to differ from: {few}.",
                        name,
                        several,
                    )
                )
            )
        if any(part.spectrum and not part.spectrum.exact for part in one.tensors.values()):
            blocks.append(
                Note(
                    titled(
                        "ranks of matrices beyond 1,024 × 1,024 are estimates, good to a few per cent.", name, several
                    )
                )
            )
    if several:
        blocks[:0] = [_side_by_side(found), *([table(found.together)] if found.together else [])]
    blocks += [Note(titled(why, name, several), missing=True) for name, why in found.missing.items()]
    return Section("weights", "What moved in the weights", " ".join(leads), blocks, MEANINGS)


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage with the digits that it needs; a dash for None."""
    if share is None:
        return "–"
    return f"{share:.0%}" if share in (0.0, 1.0) else f"{share:.{digits}%}" if share >= 0.001 else f"{share:.1g}"


def _lead(name: str, one: VariantMoved, several: bool) -> str:
    who = name if several else "The variant"
    if not one.total.norm:
        return f"{who} moved nothing."
    far = f" by {percent(one.total.relative)} of the base's norm" if one.total.relative is not None else ""
    layers = {layer: norm for layer, norm in one.layers.items() if norm.relative}
    most = max(layers, key=lambda layer: layers[layer].relative or 0.0, default=None)
    where = f", most in {most} ({percent(layers[most].relative)})" if most and len(layers) > 1 else ""
    return f"{who} moved {len(one.tensors)} tensors{far}{where}."


def _layers(name: str, one: VariantMoved, several: bool) -> Table:
    largest = max((layer.relative or 0.0 for layer in one.layers.values()), default=0.0) or 1.0
    rows = []
    for layer, found in {**one.layers, "all": one.total}.items():
        bar = None if layer == "all" or found.relative is None else found.relative / largest
        rank = "–" if found.effective_rank is None else f"{found.effective_rank:.1f} / {found.full_rank}"
        stable = "–" if found.stable_rank is None else f"{found.stable_rank:.1f}"
        rows.append(
            (layer, f"{found.norm:#.3g}", Cell(percent(found.relative), bar), rank, stable, percent(found.changed))
        )
    head = ("layer", "norm", "of the base", "effective rank", "stable rank", "changed")
    return Table(titled("every layer that changed", name, several), head, rows, numeric=(1, 2, 3, 4, 5))


def _side_by_side(found: Weights) -> Table:
    layers = list(dict.fromkeys(layer for one in found.variants.values() for layer in one.layers))
    top = max((x.relative or 0.0 for one in found.variants.values() for x in one.layers.values()), default=0) or 1.0
    rows = []
    for layer in layers:
        cells = []
        for one in found.variants.values():
            there = one.layers.get(layer)
            if there is None or there.relative is None:
                cells.append(Cell("unchanged" if there is None else "–", tone="quiet"))
            else:
                cells.append(Cell(percent(there.relative), there.relative / top))
        rows.append((layer, *cells))
    names = list(found.variants)
    return Table(
        "Change of each layer as a share of the base's norm", ("layer", *names), rows, range(1, len(names) + 1)
    )


def _spectra(name: str, one: VariantMoved, several: bool) -> Lines | None:
    matrices = {key: part for key, part in one.tensors.items() if part.spectrum and part.spectrum.values}
    chosen = sorted(matrices, key=lambda key: -(matrices[key].relative or matrices[key].norm))[:DRAWN]
    if not chosen:
        return None
    series, rows = [], []
    for key in chosen:
        part, found = matrices[key], matrices[key].spectrum
        assert found is not None
        first = found.values[0]
        series.append(
            Series(key, [float(i + 1) for i in range(len(found.values))], [value / first for value in found.values])
        )
        about = "" if found.exact else "≈ "
        rows.append(
            (
                key,
                percent(part.relative),
                f"{first:.3g}",
                f"{about}{found.effective_rank:.1f} / {found.full}",
                f"{about}{found.stable_rank:.1f}",
            )
        )
    head = ("tensor", "of the base", "largest s", "effective rank", "stable rank")
    return Lines(
        titled(f"singular values of the {len(chosen)} matrices that moved most", name, several),
        "direction",
        "share of the largest",
        series,
        f"Singular values as shares of the matrix's largest, on a logarithmic axis, for {', '.join(chosen)}.",
        Table(titled("the matrices that moved most", name, several), head, rows, numeric=(1, 2, 3, 4)),
        log=True,
    )
