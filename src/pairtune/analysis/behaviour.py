"""What the variant answers differently: metrics on every split beside the base's, with paired intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pairtune.analysis.report import Block, Cell, Forest, Note, Section, Table
from pairtune.pair.paired import Difference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pairtune.analysis.evaluate import Evaluation

MEANINGS = {
    "accuracy": "Share of rows whose most probable label is the right one.",
    "macro_f1": "The mean over labels of F1 (the harmonic mean of precision and recall), so that rare labels count as "
    "much as frequent ones.",
    "micro_f1": "F1 over all single label decisions together.",
    "nll": "Mean of −log p(right answer) in nats; lower is better, 0 is certainty.",
    "ece": "Expected calibration error: how far confidence is from accuracy, on average over 15 bins of confidence.",
    "loss": "Mean of −log p(token) in nats over all scored tokens; lower is better.",
    "perplexity": "exp(loss): among how many equally likely tokens the model seems to choose.",
    "exact_match": "Share of rows answered exactly as the target says.",
    "rouge_l": "Overlap with the target by its longest common subsequence of words, 0 to 1.",
    "chrf": "Overlap with the target by short character sequences, 0 to 1.",
    "rmse": "Root of the mean squared error, in the target's unit.",
    "mae": "Mean absolute error, in the target's unit.",
    "pearson": "Linear correlation of prediction and target, −1 to 1.",
    "squared_error": "Squared distance of prediction and target, a row.",
    "absolute_error": "Distance of prediction and target, a row.",
    "95 % interval": "Where the difference would lie in 19 of 20 draws of as many rows (bootstrap over the same rows "
    "for both models); an interval without 0 is a clear change.",
    "p": "Exact McNemar test: how probable flips as one-sided as these are if both models were equally good.",
}
RISING = frozenset({"accuracy", "macro_f1", "micro_f1", "exact_match", "rouge_l", "chrf", "pearson"})
SHARES = frozenset({"accuracy", "macro_f1", "micro_f1", "exact_match"})


def section(found: Evaluation, variants: Sequence[str], sampled: Mapping[str, tuple[int, int]]) -> Section:
    """The section as sentences, two tables and a chart; `sampled`: split → (rows scored, rows that there are)."""
    blocks: list[Block] = []
    named = {metric for models in found.metrics.values() for values in models.values() for metric in values}
    lead = "No split could be scored." if not found.metrics else lead_of(found, variants)
    if found.differences:
        main = main_metric(found)
        size, unit = (100, "points") if main in SHARES else (1, main)
        rows = [
            (_who(split, name, variants), size * one[main].mean, size * one[main].low, size * one[main].high)
            for split, changes in found.differences.items()
            for name, one in changes.items()
        ]
        seen = "; ".join(f"{label} {mean:+.3g} ({low:+.3g} to {high:+.3g})" for label, mean, low, high in rows)
        better = "right of the line is better" if main in RISING else "left of the line is better"
        label = f"{main}, variant − base, in {unit} ({better})"
        title = f"Change of {main} with its 95 % interval"
        blocks.append(Forest(title, label, rows, f"{title}: {seen}.", main in RISING))
    if found.metrics:
        blocks.append(metrics_table(found))
    if found.differences:
        blocks.append(differences_table(found))
        named |= {"95 % interval"} | ({"p"} if any(map(_tested, found.differences.values())) else set())
        named |= {metric for changes in found.differences.values() for one in changes.values() for metric in one}
    elif found.metrics:
        blocks.append(Note("The base has no trained head and no probe was fitted, so that nothing is compared.", True))
    blocks += notes(found)
    for name, (seen, there) in sampled.items():
        if seen < there:
            blocks.append(Note(f"{name}: {seen:,} of {there:,} rows, evenly spread (--all takes all)."))
    meanings = {metric: words for metric, words in MEANINGS.items() if metric in named}
    return Section("behaviour", "What it answers", lead, blocks, meanings)


def main_metric(found: Evaluation) -> str:
    """The metric that leads: accuracy or exact match where there is one, else the first that is a mean of rows."""
    metrics = [metric for variants in found.differences.values() for one in variants.values() for metric in one]
    return next((name for name in ("accuracy", "exact_match", "nll") if name in metrics), metrics[0])


def lead_of(found: Evaluation, variants: Sequence[str]) -> str:
    """One sentence a variant about the first split (test, where there is one)."""
    if not found.differences:
        return "The variant's metrics stand alone."
    split = "test" if "test" in found.differences else next(iter(found.differences))
    main = main_metric(found)
    said = []
    for name, one in found.differences[split].items():
        who = name if len(variants) > 1 else "the variant"
        base = next(model for model in found.metrics[split] if model not in variants)
        said.append(sentence(f"On {split}, {who}", main, one[main], found.metrics[split][base].get(main)))
    return " ".join(said)


def sentence(who: str, metric: str, change: Difference, before: float | None = None) -> str:
    """`On test, the variant's accuracy is 32.2 points higher than the base's (95 % interval 23.9 to 40.6).`"""
    interval = f"95 % interval {shown(metric, change.low, True)} to {shown(metric, change.high, True)}"
    if not change.clear:
        return f"{who} shows no clear change of {metric} ({shown(metric, change.mean, True)}; {interval})."
    word = "better" if change.tone(metric in RISING) == "good" else "worse"
    start = "" if before is None else f", from {shown(metric, before)} to {shown(metric, before + change.mean)}"
    unit = " points" if metric in SHARES else ""
    return f"{who} is {word} in {metric}{start} (difference {shown(metric, change.mean, True)}{unit}, {interval})."


def shown(metric: str, value: float, signed: bool = False) -> str:
    """A metric's value as people read it: shares in per cent, the rest with three digits."""
    if metric in SHARES:
        return f"{100 * value:+.1f}" if signed else f"{value:.1%}"
    return f"{value:+.3f}" if signed else f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"


def metrics_table(found: Evaluation) -> Table:
    """Split × model, a column a metric."""
    names = list(dict.fromkeys(m for models in found.metrics.values() for one in models.values() for m in one))
    rows = [
        (f"{split} ({found.items[split]:,})", model, *(shown(m, one[m]) if m in one else "–" for m in names))
        for split, models in found.metrics.items()
        for model, one in models.items()
    ]
    head = ("split (rows)", "model", *names)
    return Table("Metrics of each model", head, rows, numeric=range(2, len(head)))


def differences_table(found: Evaluation) -> Table:
    """Variant − base with the interval, the test and the flips."""
    rows = []
    for split, variants in found.differences.items():
        for variant, metrics in variants.items():
            for metric, one in metrics.items():
                unit = " pts" if metric in SHARES else ""
                change = Cell(f"{shown(metric, one.mean, True)}{unit}", tone=one.tone(metric in RISING) or "quiet")
                interval = f"{shown(metric, one.low, True)} to {shown(metric, one.high, True)}"
                p = "" if one.p_value is None else f"{one.p_value:.2g}"
                flips = "" if one.fixed is None else f"{len(one.fixed)} / {len(one.broken or [])}"
                rows.append((split, variant, metric, change, interval, p, flips))
    head = ("split", "variant", "metric", "change", "95 % interval", "p", "fixed / broken")
    return Table("Each variant − base on the same rows", head, rows, numeric=(3, 4, 5, 6))


def notes(found: Evaluation) -> list[Block]:
    """Why splits or rows were left out."""
    return [Note(f"{split}: {why}.", missing=True) for split, why in found.skipped.items()]


def _tested(variants: dict[str, dict[str, Difference]]) -> bool:
    return any(one.p_value is not None for metrics in variants.values() for one in metrics.values())


def _who(split: str, name: str, variants: Sequence[str]) -> str:
    return f"{split} · {name}" if len(variants) > 1 else split
