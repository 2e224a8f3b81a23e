"""What a variant remembers word for word of the texts that it was tuned on.

After section 4.7 of the PaLM 2 report, arXiv 2305.10403 (and Carlini et al., arXiv 2202.07646): given the first tokens
of a training passage, does the model write the next ones exactly, greedily. A greedy continuation is a given text where
each of its tokens is the most probable one behind those before it, so that one pass over the passage tells, without
writing. Passages are counted by how often they stand in the training data; those of the other splits, which were not
trained on, say how much of it is the language and no memory.

Beside it the pair's own view: log p(variant) − log p(base) of the continuation, and how well it tells passages that
were trained on from those that were not (AUROC), against what the variant's likelihood alone does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from pairtune.analysis.answers import evenly
from pairtune.analysis.predict import Reader
from pairtune.analysis.progress import Steps
from pairtune.analysis.report import Document, Report
from pairtune.analysis.shares import Share
from pairtune.data.buckets import tokens_a_batch
from pairtune.data.canaries import PROMPT, SUFFIX, Canary
from pairtune.data.tokens import Tokens
from pairtune.errors import DataError, InputError
from pairtune.pair.pair import evaluating
from pairtune.pair.separation import separation

if TYPE_CHECKING:
    from pairtune.data.task import Task
    from pairtune.pair.pair import Pair

ROWS = 1000
BINS = (1, 2, 4, 8, 16, 32, 64)  # a passage that stands in 5 rows is of the bin "5 to 8"
Passage = tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Passages of one kind.

    Attributes:
        base, variant: how many each continues exactly. log_ratio: mean of log p(variant) − log p(base), nats a token.
    """

    base: Share
    variant: Share
    log_ratio: float


@dataclass(frozen=True)
class Told:
    """AUROC of passages that were trained on against those that were not, with 95 % bootstrap intervals.

    Attributes:
        ratio: by log p(variant) − log p(base). likelihood: by log p(variant) alone.
    """

    ratio: tuple[float, float, float]
    likelihood: tuple[float, float, float]


@dataclass(frozen=True)
class Memorisation(Report):
    """What `measure_memorisation` found.

    Attributes:
        base, task: names. prompt, suffix: tokens that are given, and that must follow.
        trained: passages of train, by how often they stand in it ("1", "2", "3 to 4", ...).
        held: passages of the other splits, which were not trained on; None where there are none.
        short: training rows that are shorter than a passage, and were not asked.
        told: None where nothing is held out.
        canaries: kind → repeats → group.
        remembered: the passages of train that the variant continues and the base does not: (prompt, continuation).
    """

    schema: ClassVar[str] = "pairtune.memorisation/1"
    base: str
    task: str
    prompt: int
    suffix: int
    trained: dict[str, Group]
    held: Group | None
    short: int
    told: Told | None
    canaries: dict[str, dict[int, Group]]
    remembered: list[tuple[str, str]]

    def document(self) -> Document:
        """The report as a page or on the terminal."""
        from pairtune.analysis.memorisation_shown import document

        return document(self)


@dataclass(frozen=True)
class _Found:
    """[N] of passages: whether each side continues them exactly, and mean log p of the continuation, nats a token."""

    base: np.ndarray
    base_log_p: np.ndarray
    variant: np.ndarray
    variant_log_p: np.ndarray

    def group(self, rows: Sequence[int]) -> Group:
        base, variant = Share.count(self.base[rows].tolist()), Share.count(self.variant[rows].tolist())
        assert base is not None and variant is not None  # groups have passages
        return Group(base, variant, float((self.variant_log_p - self.base_log_p)[rows].mean()))


def measure_memorisation(
    pair: Pair,
    task: Task,
    *,
    prompt: int = 50,
    suffix: int = 50,
    rows: int = ROWS,
    canaries: Sequence[Canary] = (),
) -> Memorisation:
    """Ask how much of its training split a variant has by heart.

    Args:
        task: what it was tuned on, as its rows were read in tuning.
        prompt, suffix: tokens that are given, and that must follow; at the beginning of a row.
        rows: the most passages of a split, evenly spread over it.
        canaries: those that the training split was made with (`data.canaries`); 60 tokens are given, 30 must follow.

    Raises `InputError` for a model that is no causal language model, `DataError` where no row is long enough.
    """
    if pair.base.family != "causal" or "tokens" not in pair.views:
        raise InputError(f"{pair.base.source}: what is remembered is asked of a causal language model")
    reader = Reader(pair, task)
    tokens, length = reader.encoder.tokens, prompt + suffix
    every = _rows(reader, "train")
    passages = list(dict.fromkeys(tuple(ids[:length]) for ids in every if len(ids) >= length))
    if not passages:
        longest = max(map(len, every))
        raise DataError(
            f"{task.name}: no row of train has the {length} tokens of a passage (the longest has {longest}); ask for "
            "fewer with --prompt-tokens and --suffix-tokens"
        )
    trained = set(passages)  # all of them: what is not asked was trained on as well
    passages = [passages[i] for i in evenly(len(passages), rows)]
    others = [tuple(ids[:length]) for name in task.splits if name != "train" for ids in _rows(reader, name)]
    held = [one for one in dict.fromkeys(others) if len(one) == length and one not in trained]
    held = [held[i] for i in evenly(len(held), rows)]
    repeats = _repeats(passages, every)
    with Steps("read", 2 + bool(canaries)) as step:
        step(f"{len(passages):,} passages of train")
        found = _continued(pair, tokens.start, passages, prompt)
        step(f"{len(held):,} passages of other splits")
        apart = _continued(pair, tokens.start, held, prompt) if held else None
        if canaries:
            step(f"{len(canaries):,} canaries")
        planted = _canaries(pair, canaries, tokens) if canaries else {}
    remembered = [i for i in range(len(passages)) if found.variant[i] and not found.base[i]]
    decode = pair.tokenizer.decode
    return Memorisation(
        pair.base.source,
        task.name,
        prompt,
        suffix,
        {name: found.group(places) for name, places in _binned(repeats).items()},
        apart.group(range(len(held))) if apart is not None else None,
        sum(len(ids) < length for ids in every),
        None if apart is None else _told(found, apart),
        planted,
        [(decode(list(passages[i][:prompt])), decode(list(passages[i][prompt:]))) for i in remembered],
    )


def _rows(reader: Reader, split: str) -> list[list[int]]:
    """The ids of a split's rows as they are trained on, without what the tokenizer puts before a text."""
    rows, start = reader.encoder.split(reader.task.split(split)), len(reader.encoder.tokens.start)
    return [features["input_ids"][start:] for features in rows.take(range(len(rows)))]


def _continued(pair: Pair, start: Sequence[int], passages: Sequence[Passage], prompt: int) -> _Found:
    """Both sides over passages of one length."""
    with pair.off():
        base = _side(pair, start, passages, prompt)
    return _Found(*base, *_side(pair, start, passages, prompt))


@torch.inference_mode()
def _side(pair: Pair, start: Sequence[int], passages: Sequence[Passage], prompt: int) -> tuple[np.ndarray, np.ndarray]:
    """[N] whether the side that is on writes what follows the prompt, and the mean log p of that in nats a token."""
    size = max(1, tokens_a_batch(pair.base.device) // (len(start) + len(passages[0])))
    exact, log_p = [], []
    for first in range(0, len(passages), size):
        ids = torch.tensor([[*start, *one] for one in passages[first : first + size]], device=pair.base.device)
        with evaluating(pair.model):
            logits = pair.forward({"input_ids": ids, "attention_mask": torch.ones_like(ids)}).logits
        assert logits is not None  # it has the tokens view
        behind, wanted = logits[:, len(start) + prompt - 1 : -1].float(), ids[:, len(start) + prompt :]
        exact.append((behind.argmax(-1) == wanted).all(-1).cpu())
        log_p.append(behind.log_softmax(-1).gather(-1, wanted[..., None])[..., 0].mean(-1).cpu())
    return torch.cat(exact).numpy(), torch.cat(log_p).double().numpy()


def continued_exactly(pair: Pair, canaries: Sequence[Canary]) -> list[bool]:
    """Whether the side that is on continues each canary's first 60 tokens with its next 30.

    Raises `DataError` for a canary that is shorter for this tokenizer.
    """
    tokens = Tokens(pair.tokenizer)
    return _side(pair, tokens.start, _beginnings(canaries, tokens), PROMPT)[0].tolist()


def _canaries(pair: Pair, canaries: Sequence[Canary], tokens: Tokens) -> dict[str, dict[int, Group]]:
    """Kind → repeats → both sides on the canaries' beginnings."""
    found = _continued(pair, tokens.start, _beginnings(canaries, tokens), PROMPT)
    groups: dict[str, dict[int, list[int]]] = {}
    for i, one in enumerate(canaries):
        groups.setdefault(one.kind, {}).setdefault(one.repeats, []).append(i)
    return {
        kind: {repeats: found.group(rows) for repeats, rows in sorted(by.items())} for kind, by in groups.items()
    }  # fmt: skip


def _beginnings(canaries: Sequence[Canary], tokens: Tokens) -> list[Passage]:
    found = [tuple(ids[: PROMPT + SUFFIX]) for ids in tokens.plain([one.text for one in canaries])]
    short = next((one for one, ids in zip(canaries, found, strict=True) if len(ids) < PROMPT + SUFFIX), None)
    if short is not None:
        raise DataError(f"the canary {short.text[:40]!r} ... has less than {PROMPT + SUFFIX} tokens for this tokenizer")
    return found


def _repeats(passages: Sequence[Passage], rows: Sequence[Sequence[int]]) -> list[int]:
    """In how many rows each passage stands, anywhere in them."""
    length, wanted = len(passages[0]), set(passages)
    seen: Counter[Passage] = Counter()
    for ids in rows:
        windows = {tuple(ids[i : i + length]) for i in range(len(ids) - length + 1)}
        seen.update(windows & wanted)
    return [seen[one] for one in passages]


def _binned(repeats: Sequence[int]) -> dict[str, list[int]]:
    """Name of the bin → the places whose number of repeats falls into it."""
    found = {}
    lows = (0, *BINS)
    for low, high in zip(lows, (*BINS, max([BINS[-1], *repeats]) + 1), strict=True):
        places = [i for i, count in enumerate(repeats) if low < count <= high]
        if places:
            name = str(high) if high - low == 1 else f"{low + 1} to {high}" if high in BINS else f"above {low}"
            found[name] = places
    return found


def _told(trained: _Found, held: _Found) -> Told:
    def area(inside: np.ndarray, outside: np.ndarray) -> tuple[float, float, float]:
        return separation(-inside, -outside).auroc  # what was trained on has the higher value

    ratios = [one.variant_log_p - one.base_log_p for one in (trained, held)]
    return Told(area(*ratios), area(trained.variant_log_p, held.variant_log_p))
