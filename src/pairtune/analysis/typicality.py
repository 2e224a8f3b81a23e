"""Where the log ratio is largest: the tokens that the variant expects more, or less, than the base does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pairtune.analysis.predict import Reader
from pairtune.analysis.report import Block, Cell, Note, Section, Table, Tokens, TokenText, titled
from pairtune.data.buckets import batches, tokens_a_batch
from pairtune.data.forms import IGNORED
from pairtune.errors import MissingView

if TYPE_CHECKING:
    from pairtune.data.split import Split
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair

SHOWN = 3  # texts at either end
WORDS = 8  # tokens at either end
OFTEN = 5  # occurrences that a token of the table needs
SEEN = f"tokens seen {OFTEN} times or more, by mean log ratio"
FEWEST = 4  # scored tokens that a shown text needs
LONGEST = 160  # tokens of a shown text
MEANINGS = {
    "log ratio": "log p(variant) − log p(base) of one token, in nats: above 0 the variant expects it more than the "
    "base does, below 0 less; ln 2 ≈ 0.69 is twice as probable.",
    "typical": "A text whose mean log ratio is high reads like what the variant was tuned on; a low one does not.",
}


@dataclass(frozen=True)
class Text:
    """One text: its split, mean log ratio a token, and (token, log ratio) in order; None for what is not scored."""

    split: str
    mean: float
    tokens: list[tuple[str, float | None]]


@dataclass(frozen=True)
class Word:
    """A token of the vocabulary: its mean log ratio over its occurrences in all texts."""

    token: str
    mean: float
    count: int


@dataclass(frozen=True)
class VariantTokens:
    """One variant: split → (texts, mean log ratio a token), the texts at the ends, and the tokens at the ends."""

    splits: dict[str, tuple[int, float]]
    most: list[Text]
    least: list[Text]
    gained: list[Word]
    lost: list[Word]


@dataclass(frozen=True)
class TokenRatios:
    """variant → what its log ratio says; `missing`: variant → why there is none."""

    variants: dict[str, VariantTokens]
    missing: dict[str, str] = field(default_factory=dict)


@dataclass
class _Scored:
    split: str
    ids: list[int]
    values: list[float | None]
    mean: float


def token_ratios(
    pairs: Mapping[str, Pair],
    texts: Mapping[str, tuple[Task, Split]],
    step: Callable[[str], None] = lambda _: None,
) -> TokenRatios:
    """Token by token over some texts: name → (task, its rows)."""
    found = TokenRatios({})
    for name, pair in pairs.items():
        step(f"log ratio of {name}")
        if "tokens" not in pair.views:
            found.missing[name] = "there is no language-model head on both sides, so that no token has a probability"
            continue
        try:
            scored = [one for split, (task, rows) in texts.items() for one in _scored(pair, split, task, rows)]
        except MissingView as error:
            found.missing[name] = str(error)
            continue
        if scored:
            found.variants[name] = _summed(pair, scored)
        else:
            found.missing[name] = "no text has a token that could be scored"
    return found


def _scored(pair: Pair, split: str, task: Task, rows: Split) -> list[_Scored]:
    """The log ratio of every row: of its text, or for an encoder-decoder of what is written from it."""
    writes = pair.base.family == "seq2seq"
    if writes:
        rows = rows.select([i for i, row in enumerate(rows) if task.target(row) is not None])
    if not len(rows):
        return []
    reader = Reader(pair, task)
    encoded = reader.encoder.split(rows, text_only=not writes)
    plan, order = batches(encoded.lengths, tokens_a_batch(pair.base.device))
    flat = []
    for chosen in plan:
        batch: dict[str, Any] = reader.collate(encoded.take(chosen))
        batch = {name: tensor.to(pair.base.device) for name, tensor in batch.items()}
        ratio = pair.log_ratio(batch)
        real = batch["labels"] != IGNORED if writes else batch["attention_mask"].bool()
        ids = batch["labels"] if writes else batch["input_ids"]
        for i in range(len(chosen)):
            kept, mask = real[i], ratio.mask[i][real[i]].tolist()
            values = ratio.values[i][kept].tolist()
            numbers = [value if counts else None for value, counts in zip(values, mask, strict=True)]
            flat.append(_Scored(split, ids[i][kept].tolist(), numbers, float(ratio.mean()[i])))
    return [flat[place] for place in order]


def _summed(pair: Pair, scored: list[_Scored]) -> VariantTokens:
    splits = {}
    for split in dict.fromkeys(one.split for one in scored):
        numbers = [value for one in scored if one.split == split for value in one.values if value is not None]
        splits[split] = (sum(one.split == split for one in scored), float(np.mean(numbers)) if numbers else 0.0)
    long_enough = [one for one in scored if sum(value is not None for value in one.values) >= FEWEST] or scored
    order = sorted(long_enough, key=lambda one: one.mean)
    ends = min(SHOWN, (len(order) + 1) // 2)
    gained, lost = _words(pair, scored)
    most = [_text(pair, one) for one in order[::-1][:ends]]
    return VariantTokens(
        splits, most, [_text(pair, one) for one in order[: min(ends, len(order) - ends)]], gained, lost
    )


def _words(pair: Pair, scored: list[_Scored]) -> tuple[list[Word], list[Word]]:
    by_id: dict[int, list[float]] = {}
    for one in scored:
        for token, value in zip(one.ids, one.values, strict=True):
            if value is not None:
                by_id.setdefault(token, []).append(value)
    often = [(float(np.mean(values)), token, len(values)) for token, values in by_id.items() if len(values) >= OFTEN]
    often.sort(reverse=True)
    words = [Word(str(pair.tokenizer.decode([token])), mean, count) for mean, token, count in often]
    return [one for one in words[:WORDS] if one.mean > 0], [one for one in words[::-1][:WORDS] if one.mean < 0]


def _text(pair: Pair, one: _Scored) -> Text:
    """The tokens as they stand in the text: each is what it adds to the decoded beginning.

    What the tokenizer puts before a text is left out; a token that is only part of a character shows with its last one.
    """
    tokenizer: Any = pair.tokenizer
    special = set(tokenizer.all_special_ids)
    both = list(zip(one.ids, one.values, strict=True))
    first = next((i for i, (token, value) in enumerate(both) if token not in special or value is not None), 0)
    ids, tokens, before = [], [], ""
    for token, value in both[first : first + LONGEST]:
        ids.append(token)
        now = tokenizer.decode(ids, clean_up_tokenization_spaces=False).rstrip("\ufffd")
        tokens.append((now[len(before) :], value))
        before = now
    if len(both) > first + LONGEST:
        tokens.append((" …", None))
    return Text(one.split, one.mean, tokens)


# -- how it is shown -------------------------------------------------------------------------------------------------


def section(found: TokenRatios, rows: Mapping[str, tuple[int, int]]) -> Section:
    """The section as a table of splits, coloured texts, and tokens; `rows`: split → (looked at, there are)."""
    blocks: list[Block] = []
    leads = []
    several = len(found.variants) + len(found.missing) > 1
    for name, one in found.variants.items():
        leads.append(_lead(name if several else "The variant", one))
        head = ("text from", "texts", "mean log ratio a token")
        means = [(split, f"{count:,}", f"{mean:+.3f}") for split, (count, mean) in one.splits.items()]
        blocks.append(Table(titled("log ratio by where the text is from", name, several), head, means, numeric=(1, 2)))
        up, down = "the variant expects it more", "the variant expects it less"
        for word, texts in (("most typical", one.most), ("least typical", one.least)):
            shown = [TokenText(f"{text.split}, {text.mean:+.2f} a token", text.tokens) for text in texts]
            if shown:
                blocks.append(Tokens(titled(f"the {word} texts", name, several), shown, up, down))
        if one.gained or one.lost:
            blocks.append(_table(titled(SEEN, name, several), one))
    blocks += [Note(titled(f"not here: {why}.", name, several), missing=True) for name, why in found.missing.items()]
    for split, (seen, there) in rows.items():
        if found.variants and seen < there:
            blocks.append(Note(f"{split}: {seen:,} of {there:,} texts, evenly spread (--all takes all)."))
    meanings = MEANINGS if found.variants else {}
    return Section("tokens", "Where it expects other words", " ".join(leads) or "Not measured.", blocks, meanings)


def _lead(who: str, one: VariantTokens) -> str:
    most = max(one.splits, key=lambda split: one.splits[split][1])
    least = min(one.splits, key=lambda split: one.splits[split][1])
    if least == most:
        return f"{who}'s mean log ratio on {most} is {one.splits[most][1]:+.2f} nats a token."
    return (
        f"{who}'s mean log ratio is highest on {most} ({one.splits[most][1]:+.2f} nats a token) and lowest on {least} "
        f"({one.splits[least][1]:+.2f})."
    )


def _table(caption: str, one: VariantTokens) -> Table:
    rows = []
    for i in range(max(len(one.gained), len(one.lost))):
        cells: list[str | Cell] = []
        for words, tone in ((one.gained, "good"), (one.lost, "bad")):
            word = words[i] if i < len(words) else None
            cells += [
                visible(word.token) if word else "",
                Cell(f"{word.mean:+.2f}", tone=tone) if word else "",
                f"{word.count}" if word else "",
            ]
        rows.append(tuple(cells))
    head = ("expected more", "mean", "seen", "expected less", "mean", "seen")
    return Table(caption, head, rows, numeric=(1, 2, 4, 5))


def visible(token: str) -> str:
    """A token of which one sees that it is there: white space by name."""
    return token.strip() or {"": "(part of a character)", " ": "(space)", "\n": "(line end)"}.get(token, repr(token))
