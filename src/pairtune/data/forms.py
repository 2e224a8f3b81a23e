"""The forms that a row takes: inputs with a label, a text with its continuation, a source with its target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pairtune.data.media import MediaError

if TYPE_CHECKING:
    from pairtune.data.encode import Encoder, Features

IGNORED = -100  # a label that is not scored
Rows = Sequence[Mapping[str, Any]]


class RowError(Exception):
    """A row that cannot be encoded, by its place among the rows that were given."""

    def __init__(self, position: int, message: str):
        self.position, self.message = position, message
        super().__init__(message)


class TooLong(RowError):
    """A row of which what is to be learnt does not fit into `max_length`."""


def sources(encoder: Encoder, rows: Rows) -> list[Features]:
    """What an encoder reads: the text columns as one text, or as a pair where the model is made for pairs.

    Of images and sound, what the base's processor makes of them.
    """
    if encoder.processor is not None:
        return seen(encoder, rows)
    task, tokens = encoder.task, encoder.tokens
    if encoder.family == "encoder":
        return tokens.inputs([[row[column] for column in task.text] for row in rows], encoder.max_length)
    found = tokens.inputs([[task.prompt(row)] for row in rows], encoder.max_length)
    for features in found:
        features.pop("token_type_ids", None)
    return found


def seen(encoder: Encoder, rows: Rows) -> list[Features]:
    """What a model of images or sound reads of each row, decoded here."""
    processor, (column,) = encoder.processor, encoder.task.text
    assert processor is not None
    decoded = []
    for i, row in enumerate(rows):
        try:
            decoded.append(row[column].decode())
        except MediaError as error:
            raise RowError(i, row[column].failure(error)) from None
    return [{processor.modality.key: values} for values in processor(decoded)]


def labelled(encoder: Encoder, rows: Rows) -> list[Features]:
    """Inputs for a head, with the class index, number or multi-hot list under `label`."""
    task, found = encoder.task, sources(encoder, rows)
    for features, row in zip(found, rows, strict=True):
        label = task.target(row)
        if label is not None:
            features["label"] = _multi_hot(label, len(task.labels)) if task.kind == "multilabel" else label
    return found


def translated(encoder: Encoder, rows: Rows) -> list[Features]:
    """A source and the target to write, for an encoder-decoder; the target is never cut."""
    found = sources(encoder, rows)
    for i, (features, target) in enumerate(zip(found, _completions(encoder, rows), strict=True)):
        if target is not None and len(target) > encoder.max_length:
            raise TooLong(i, _too_long(len(target), encoder.max_length))
        if target is not None:
            features["labels"] = target
    return found


def continued(encoder: Encoder, rows: Rows, text_only: bool = False) -> list[Features]:
    """A text and what follows it, for a causal language model; only the text's ids where `text_only`."""
    tokens, after = encoder.tokens, _completions(encoder, rows)
    texts = [tokens.bare(ids) for ids in tokens.plain([encoder.task.prompt(row) for row in rows])]
    found = []
    for i, (ids, completion) in enumerate(zip(texts, after, strict=True)):
        if encoder.task.label is None:
            features = _plain_text(encoder, ids, end=not text_only)
        else:
            features = _completed(encoder, ids, completion, i, text_only)
        if not features["input_ids"]:
            raise RowError(i, "the text has no tokens")
        found.append({key: features[key] for key in ("input_ids", "cut") if key in features} if text_only else features)
    return found


def _completed(
    encoder: Encoder, ids: list[int], completion: list[int] | None, position: int, text_only: bool
) -> Features:
    """A text, cut on the left so that the completion fits behind it, and the completion."""
    start = encoder.tokens.start
    if encoder.task.kind == "classification":
        room = encoder.room  # for the longest label: a text must not depend on which label follows it
    else:
        room = encoder.max_length - len(start) - len(completion or [])
    if room < 0:
        raise TooLong(position, _too_long(len(completion or []), encoder.max_length - len(start)))
    text = start + ids[max(0, len(ids) - room) :]
    whole = text if text_only else text + (completion or [])
    unscored = len(text) if encoder.completion_only else max(1, len(start))
    labels = [IGNORED] * min(unscored, len(whole)) + whole[unscored:]
    features = {"input_ids": whole, "labels": labels, "target": [0] * len(text) + [1] * (len(whole) - len(text))}
    return {**features, "cut": True} if len(ids) > room else features


def _plain_text(encoder: Encoder, ids: list[int], end: bool) -> Features:
    """A whole text, every token scored that has one before it; a text that is cut does not end."""
    whole = encoder.tokens.start + ids
    whole = encoder.tokens.ended(whole) if end else whole
    cut = len(whole) > encoder.max_length
    whole = whole[: encoder.max_length]
    unscored = max(1, len(encoder.tokens.start))
    labels = [IGNORED] * min(unscored, len(whole)) + whole[unscored:]
    features = {"input_ids": whole, "labels": labels, "target": [0] * len(whole)}
    return {**features, "cut": True} if cut else features


def _completions(encoder: Encoder, rows: Rows) -> list[list[int] | None]:
    """The ids that follow each row's text; None for a row without a label or target."""
    task, tokens = encoder.task, encoder.tokens
    targets = [task.target(row) for row in rows]
    if task.kind == "classification":
        return [None if target is None else encoder.completions[target] for target in targets]
    there = [i for i, target in enumerate(targets) if target is not None]
    if encoder.family == "seq2seq":
        ids = tokens.targets([targets[i] for i in there])
    else:
        ids = [tokens.ended(one) for one in tokens.plain([task.separator + targets[i] for i in there])]
    found: list[list[int] | None] = [None] * len(rows)
    for i, one in zip(there, ids, strict=True):
        found[i] = one
    return found


def _multi_hot(indices: Sequence[int], size: int) -> list[float]:
    chosen = set(indices)
    return [float(i in chosen) for i in range(size)]


def _too_long(length: int, most: int) -> str:
    return (
        f"the text to write takes {length} tokens, {most} fit into max_length, and it is never cut; raise max_length "
        "or leave the row out"
    )
