"""Which tokens carried a score: each token's contribution, the sum of which is the score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch

from pairtune.errors import MissingView
from pairtune.ood import Detector
from pairtune.ood.inputs import Input

if TYPE_CHECKING:
    from pairtune.ood.batching import Rows
    from pairtune.ood.inputs import Row
    from pairtune.ood.scoring import Given, Scorer

AT_ONCE = 64
_PARTS = ("template", "question", "answer")


@dataclass(frozen=True)
class Token:
    """One token and what it adds to the score.

    Attributes:
        token: its text.
        start, end: its characters in the text it comes from (the question, or the answer), None for template tokens
            and tokenizers that do not say.
        part: "question", "answer" or "template".
        contribution: nats (divided as the score is); positive speaks for out of distribution.
    """

    token: str
    start: int | None
    end: int | None
    part: str
    contribution: float


@dataclass(frozen=True)
class Explanation:
    """A score and the tokens that make it up."""

    text: str
    answer: str | None
    score: float
    tokens: list[Token]


def explainable(scorer: Scorer, name: str) -> None:
    """Raise `MissingView` unless the score of this detector is a sum over tokens, naming those that are."""
    if type(scorer.detectors[name]).contributions is Detector.contributions:
        raise MissingView(
            f"{name} is no sum over tokens, so that no token carries a share of it; these are: log-ratio, likelihood, "
            "variant-ratio, length"
        )


def explain(scorer: Scorer, name: str, texts: Iterable[Given]) -> Iterator[Explanation]:
    """The tokens of every text with their contributions, in order. Raises as `explainable` and `Scorer.stream`."""
    explainable(scorer, name)
    scorer.require_fit()
    source = iter(texts)
    while chunk := [Input.of(one) for one in islice(source, AT_ONCE)]:
        for one, row in zip(chunk, scorer.batcher.rows(chunk), strict=True):
            yield _explained(scorer, name, one, row)


@torch.inference_mode()
def _explained(scorer: Scorer, name: str, given: Input, row: Rows) -> Explanation:
    batch, detector = scorer.batcher.batch([row]), scorer.detectors[name]
    score = float(detector.score(scorer.pair, batch)[0])
    found = detector.contributions(scorer.pair, batch)
    assert found is not None
    held, values = found
    held_row = {"question": row.question, "with_answer": row.joined, "answer": row.alone}[held]
    assert held_row is not None
    text = scorer.batcher.reader.text(given)
    shares = values[0].tolist()[: len(held_row.ids)]
    tokens = list(_tokens(scorer, held_row, shares, text, row.answer))
    return Explanation(text, row.answer, score, tokens)


def _tokens(scorer: Scorer, row: Row, shares: list[float], text: str, answer: str | None) -> Iterator[Token]:
    for id_, part, span, share in zip(row.ids, row.parts, row.spans, shares, strict=True):
        if not part and not share:
            continue
        source = answer or "" if _PARTS[part] == "answer" else text
        said = source[slice(*span)] if span else ""
        yield Token(said or str(scorer.pair.tokenizer.decode([id_])), *(span or (None, None)), _PARTS[part], share)
