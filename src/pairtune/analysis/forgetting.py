"""What was lost: loss on general text, and how much of what the base had right the variant still has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pairtune.analysis import predict
from pairtune.analysis.answers import BASE, same_base, spread
from pairtune.analysis.predict import Reader
from pairtune.analysis.report import Block, Cell, Item, Items, Note, Section, Table, titled
from pairtune.data.split import Split
from pairtune.data.task import Task
from pairtune.errors import InputError
from pairtune.pair.paired import Difference, compare

if TYPE_CHECKING:
    from pairtune.analysis.answers import Answers
    from pairtune.pair.pair import Pair

DEFAULT = "demo:general"
WORST = 3
MEANINGS = {
    "loss on general text": "Mean over the paragraphs of −log p(token) in nats; how surprised a model is by ordinary "
    "English it was not tuned on. A rise is what tuning forgot.",
    "of what the base had right": "Share of the rows that the base answered rightly and the variant still does; the "
    "interval is Wilson's 95 % interval of a share.",
}


@dataclass(frozen=True)
class General:
    """Loss on general text.

    Attributes:
        source: where the text is from. texts, tokens: how many (tokens of the base's side).
        losses: model → mean loss of a paragraph, nats a token. changes: variant → variant − base over paragraphs.
        kinds: kind of text → model → loss, where the rows have a column `kind`.
        worst: variant → (text, base's loss, variant's loss) of the paragraphs whose loss rose most.
    """

    source: str
    texts: int
    tokens: int
    losses: dict[str, float]
    changes: dict[str, Difference]
    kinds: dict[str, dict[str, float]]
    worst: dict[str, list[tuple[str, float, float]]]


@dataclass(frozen=True)
class Kept:
    """Of `had` rows that the base had right, the variant has `kept`; the share with its 95 % Wilson interval."""

    had: int
    kept: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Forgetting:
    """General text (or why not), and split → variant → what was kept."""

    general: General | None
    missing: str | None = None
    kept: dict[str, dict[str, Kept]] = field(default_factory=dict)


def general_task(source: str | Path | Sequence[str] = DEFAULT, most: int | None = None) -> Task:
    """General text as a task of plain text: a file of texts, `demo:<name>`, or texts themselves.

    Of a file with several columns, the text column is guessed as for a task. Raises as `Split.read` does.
    """
    from pairtune.data import sources

    if isinstance(source, str | Path):
        text = str(source)
        if text.startswith("demo:"):
            split = sources.find(text, {}, Path()).splits["test"]
        else:
            split = Split.read(Path(text).expanduser())
        column = "text" if "text" in split.columns else _text_column(split, text)
        for i, value in enumerate(split.values(column)):
            if not isinstance(value, str):
                raise split.error(i, f"column {column!r}: expected text, found {type(value).__name__}")
    else:
        text, column = "texts", "text"
        split = Split.of([{"text": one} for one in source], text)
    return Task(text, "lm", (column,), None, [], {"test": spread(split, most)})


def _text_column(split: Split, source: str) -> str:
    from pairtune.data import columns

    try:
        return columns.guess_text(columns.profile(split), None)[0][0]
    except InputError:
        names = ", ".join(split.columns)
        message = f"{source}: none of its columns ({names}) looks like text; name the right one 'text'"
        raise InputError(message) from None


def general_text(
    pairs: Mapping[str, Pair], task: Task, step: Callable[[str], None] = lambda _: None
) -> tuple[General | str, dict[str, np.ndarray]]:
    """Losses of base and variants on general text, or why there are none; and model → [N] losses of the paragraphs."""
    first = same_base(pairs)
    if first.base.family == "encoder":
        return "an encoder has no language-model head, so that no text has a loss", {}
    if first.base.family == "seq2seq":
        return "an encoder-decoder writes one text from another, so that plain text has no loss", {}
    lacking = [name for name, pair in pairs.items() if "tokens" not in pair.views]
    if lacking:
        return f"{lacking[0]} has a head for labels in the place of the language model's", {}
    rows = task.split("test")
    step(f"general text: {BASE}")
    with first.off():
        losses, counts = predict.token_losses(Reader(first, task), rows)
    items = {BASE: losses / np.maximum(counts, 1)}
    for name, pair in pairs.items():
        step(f"general text: {name}")
        losses, own = predict.token_losses(Reader(pair, task), rows)
        items[name] = losses / np.maximum(own, 1)
    texts = [row[task.text[0]] for row in rows]
    found = General(
        task.name,
        len(rows),
        int(counts.sum()),
        {model: float(values.mean()) for model, values in items.items()},
        {name: compare(items[BASE], items[name]) for name in pairs},
        _by_kind(rows, items),
        {name: _worst(texts, items[BASE], items[name]) for name in pairs},
    )
    return found, items


def _by_kind(rows: Split, items: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    if "kind" not in rows.columns:
        return {}
    kinds = np.array([str(kind) for kind in rows.values("kind", "")])
    return {
        str(kind): {model: float(values[kinds == kind].mean()) for model, values in items.items()}
        for kind in dict.fromkeys(kinds.tolist())
    }


def _worst(texts: list[str], before: np.ndarray, after: np.ndarray) -> list[tuple[str, float, float]]:
    order = np.argsort(before - after, kind="stable")[:WORST]
    return [(texts[i], float(before[i]), float(after[i])) for i in order if after[i] > before[i]]


def kept(answers: Answers) -> dict[str, dict[str, Kept]]:
    """Split → variant → how much of what the base had right is still right; for answers that are right or wrong."""
    from scipy.stats import binomtest

    metric = {"classification": "accuracy", "multilabel": "exact_match"}.get(answers.task.kind)
    found: dict[str, dict[str, Kept]] = {}
    for split, one in answers.splits.items():
        if metric is None or one.base is None:
            continue
        right = one.sides[one.base].items[metric] == 1
        if not right.any():
            continue
        for name in answers.variants:
            still = int((one.sides[name].items[metric][right] == 1).sum())
            had = int(right.sum())
            interval = binomtest(still, had).proportion_ci(method="wilson")
            low, high = float(interval.low), float(interval.high)
            found.setdefault(split, {})[name] = Kept(had, still, still / had, low, high)
    return found


# -- how it is shown -------------------------------------------------------------------------------------------------


def section(found: Forgetting) -> Section:
    """The section as sentences and tables."""
    blocks: list[Block] = []
    leads = []
    general = found.general
    if general is not None:
        leads += [_lead(name, general, len(general.changes) > 1) for name in general.changes]
        blocks.append(_general(general))
        source = f"General text: {general.texts:,} paragraphs, {general.tokens:,} tokens, from {general.source}."
        blocks.append(Note(source))
        for name, worst in general.worst.items():
            if worst:
                items = [
                    Item(text, [("base", f"{a:.2f} nats a token", None), ("variant", f"{b:.2f} nats a token", None)])
                    for text, a, b in worst
                ]
                blocks.append(
                    Items(titled("the paragraphs that it forgot most", name, len(general.changes) > 1), items)
                )
    elif found.missing:
        blocks.append(Note(f"No loss on general text: {found.missing}.", missing=True))
    if found.kept:
        rows = [
            (split, name, f"{one.had:,}", f"{one.kept:,}", f"{one.share:.1%}", f"{one.low:.1%} to {one.high:.1%}")
            for split, variants in found.kept.items()
            for name, one in variants.items()
        ]
        head = ("split", "variant", "base right", "still right", "kept", "95 % interval")
        blocks.append(Table("Of what the base had right", head, rows, numeric=(2, 3, 4, 5)))
        split = "test" if "test" in found.kept else next(iter(found.kept))
        for name, one in found.kept[split].items():
            who = f"{name} still has" if len(found.kept[split]) > 1 else "the variant still has"
            leads.append(
                f"Of the {one.had:,} rows of {split} that the base had right, {who} {one.kept:,} ({one.share:.0%})."
            )
    shown = dict(zip(MEANINGS, (general is not None, bool(found.kept)), strict=True))
    meanings = {name: words for name, words in MEANINGS.items() if shown[name]}
    return Section("forgetting", "What it forgot", " ".join(leads) or "Not measured.", blocks, meanings)


def _lead(name: str, general: General, several: bool) -> str:
    change, who = general.changes[name], name if several else "the variant"
    before, after = general.losses[BASE], general.losses[name]
    interval = f"95 % interval of the difference {change.low:+.3f} to {change.high:+.3f}"
    if not change.clear:
        return f"On general text, {who} shows no clear change of loss ({before:.3f} to {after:.3f}; {interval})."
    word = "rises" if change.mean > 0 else "falls"
    return f"On general text, the loss of {who} {word} from {before:.3f} to {after:.3f} nats a token ({interval})."


def _general(general: General) -> Table:
    names = list(general.changes)
    rows = []
    everything = {"all": general.losses, **general.kinds}
    for kind, losses in everything.items():
        cells: list[str | Cell] = [kind, f"{losses[BASE]:.3f}"]
        for name in names:
            change = losses[name] - losses[BASE]
            tone = (general.changes[name].tone(rising=False) if kind == "all" else None) or "quiet"
            cells += [f"{losses[name]:.3f}", Cell(f"{change:+.3f}", tone=tone)]
        rows.append(tuple(cells))
    head = ["kind of text", BASE, *(word for name in names for word in (name, "change"))]
    return Table("Loss on general text, nats a token", head, rows, numeric=range(1, len(head)))
