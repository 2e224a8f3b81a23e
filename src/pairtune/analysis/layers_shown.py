"""How a sweep's layers are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pairtune.analysis.behaviour import SHARES, shown
from pairtune.analysis.layers import RHO_AVERAGE, RHO_WORST
from pairtune.analysis.report import Block, Cell, Note, Section, Table

if TYPE_CHECKING:
    from pairtune.analysis.layers import Layers
    from pairtune.analysis.thinning import Thinned

MEANINGS = {
    "worst": f"How far the loss can be made to rise where every weight may change by {RHO_WORST:.1%} of its size.",
    "average": f"How far it rises on average under Gaussian noise of {RHO_AVERAGE:.0%} of each weight's size.",
    "normalised": "The same with logits of equal length, so that confidence alone does not make a model sharp.",
    "barrier, lag": "The layer alone goes along the path, all others stay at its end: how far the loss rises above the "
    "chord at most, and the area above it. The mirror has all others at the path's beginning.",
    "straggler": "A layer whose lag lies above the mean of all layers by more than one standard deviation.",
    "thinned": "Of the layers' change the largest entries stay; share and alpha are picked on ID validation. Its worth "
    "is its OOD mean minus that of the plain path's picked point.",
}


def section(found: Layers) -> Section:
    """The section: sharpness of the whole and of each layer, stragglers, and what thinning them is worth."""
    blocks: list[Block] = [_whole(found), _layers(found)]
    if found.mitigation is not None:
        blocks.append(_thinned(found))
    blocks.append(Note(f"Losses are means over {found.rows} rows of the training split."))
    meanings = MEANINGS if found.mitigation is not None else {k: v for k, v in MEANINGS.items() if k != "thinned"}
    return Section("layers", "Sharp layers and stragglers", _lead(found), blocks, meanings)


def _lead(found: Layers) -> str:
    if not found.stragglers:
        return "No layer stands out: none lags more than one standard deviation above the mean."
    many = len(found.stragglers) > 1
    mirror, places = found.overlap
    said = [
        f"Layer{'s' if many else ''} {', '.join(found.stragglers)} lag{'' if many else 's'} behind the others (overlap "
        f"with the mirror's choice {mirror:.0%}, with that at single places {places:.0%})."
    ]
    one = found.mitigation
    if one is None:
        said.append("Nothing was thinned: there is no validation split to pick the share on.")
        return " ".join(said)
    wish = "prefers" if found.preferred else "does not prefer"
    said.append(f"Validation {wish} the path with this change thinned to {one.keep:.0%} to the plain one.")
    if one.effect is not None:
        mean, low, high = one.effect
        clear = "" if low > 0 or high < 0 else ", not clearly different"
        said.append(
            f"Out of distribution that is worth {_worth(found, mean)}{clear} (95 % {_range(found, low, high)})."
        )
        beaten = sum(other.effect is not None and other.effect[0] >= mean for other in found.controls)
        if found.controls:
            said.append(f"{beaten} of {len(found.controls)} draws of other layers, thinned alike, are worth as much.")
    return " ".join(said)


def _whole(found: Layers) -> Table:
    rows = [
        (alpha, *("–" if value is None else f"{value:.4f}" for value in vars(one).values()))
        for alpha, one in found.whole.items()
    ]
    head = ("alpha", "worst", "average", "worst, normalised", "average, normalised")
    return Table("Sharpness of all changed weights together", head, rows, numeric=range(5))


def _layers(found: Layers) -> Table:
    rows = []
    top = max(one.worst for one in found.layers.values()) or 1.0
    for name, one in found.layers.items():
        rows.append(
            (
                name,
                Cell(f"{one.worst:.4f}", share=max(one.worst, 0.0) / top),
                f"{one.average:.4f}",
                f"{one.barrier:.4f}",
                f"{one.lag:+.4f}",
                f"{one.mirror_lag:+.4f}",
                Cell("straggler", tone="bad") if one.straggler else "",
            )
        )
    head = ("layer", "worst", "average", "barrier", "lag", "mirror's lag", "")
    return Table("Layer by layer, sharpness at the path's end", head, rows, numeric=(1, 2, 3, 4, 5))


def _thinned(found: Layers) -> Table:
    assert found.mitigation is not None
    rows = []
    for who, one in (("stragglers", found.mitigation), *(("others", control) for control in found.controls)):
        rows.append(
            (
                f"{who}: {', '.join(one.layers)}",
                f"{one.keep:.0%}",
                f"{one.alpha:g}",
                shown(found.metric, one.validation),
                _effect(found, one),
                "" if one.gain is None else shown(found.metric, one.gain, True),
            )
        )
    head = ("thinned", "kept", "alpha", f"{found.metric}, validation", "worth on the OOD mean (95 %)", "gain")
    return Table("The path with layers thinned", head, rows, numeric=(1, 2, 3, 4, 5))


def _effect(found: Layers, one: Thinned) -> str | Cell:
    if one.effect is None:
        return "–"
    mean, low, high = one.effect
    tone = "quiet" if low <= 0 <= high else "good" if mean > 0 else "bad"
    return Cell(f"{_worth(found, mean)} ({_range(found, low, high)})", tone=tone)


def _worth(found: Layers, value: float) -> str:
    return f"{shown(found.metric, value, True)}{' pts' if found.metric in SHARES else ''}"


def _range(found: Layers, low: float, high: float) -> str:
    return f"{shown(found.metric, low, True)} to {shown(found.metric, high, True)}"
