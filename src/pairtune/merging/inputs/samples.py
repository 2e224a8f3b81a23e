"""For methods that look at data: each model in memory alone, and rows of the task that it was tuned on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pairtune.data.as_tuned import task_for
from pairtune.data.collate import Collator
from pairtune.data.encode import Encoder
from pairtune.data.fitting import fitting
from pairtune.errors import InputError, NonFiniteError
from pairtune.merging import Merge
from pairtune.merging.inputs.sources import Source
from pairtune.pair import hub
from pairtune.pair.apply import install_delta
from pairtune.pair.base import Base
from pairtune.pair.card import CARD_FILE, Card, library_versions
from pairtune.pair.loader import base_wanted
from pairtune.pair.logprobs import accepts
from pairtune.pair.pair import Layer, Pair, evaluating
from pairtune.training.feeds import longest_input

if TYPE_CHECKING:
    from pairtune.data.split import Split
    from pairtune.data.task import Task

log = logging.getLogger("pairtune")
ROWS = 256
_TOKENIZER = "tokenizer_config.json"
_NAMELESS = re.compile(r"LABEL_\d+")


@dataclass(frozen=True)
class Samples:
    """One model's rows, and how they become batches."""

    source: Source
    pair: Pair
    task: Task
    rows: Split

    @property
    def about(self) -> dict[str, Any]:
        """What a card says of the rows."""
        return {"task": self.task.name, "split": "train", "rows": len(self.rows), "fingerprint": self.rows.fingerprint}

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """Every row as a batch of its own: nothing is padded, and no two rows' gradients are mixed.

        A head's labels are left out: methods ask the model what it says, not the data. Of a task with a text to write,
        the text that is given is not scored.
        """
        pair, family = self.pair, self.pair.base.family
        only = True if family != "encoder" and self.task.label is not None else None
        encoder = Encoder(self.task, pair.tokenizer, family, longest_input(pair.base), completion_only=only)
        collate = Collator(pair.tokenizer, family)
        encoded = encoder.split(self.rows, text_only=family == "encoder")
        places = family == "causal" and accepts(pair.base.model, "position_ids")
        for i in _shown(len(self.rows), self.source.label):
            batch = collate(encoded.take([i]))
            if not places:
                batch.pop("position_ids", None)
            yield {name: tensor.to(pair.base.device) for name, tensor in batch.items()}


def collect(
    method: Merge, name: str, models: Sequence[Source], base: Source | None, data: Sequence[str], rows: int, place: Path
) -> None:
    """Fill the statistics of every model, one model in memory at a time; files go into `place`.

    Raises `InputError` for a task that a model's head does not fit, `NonFiniteError` naming a model that answers NaN.
    """
    if rows < 1:
        raise InputError(f"rows: expected 1 or more, found {rows}")
    for source, one in zip(models, data, strict=True):
        _collect(method, name, source, base, one, rows, place)


def _collect(method: Merge, name: str, source: Source, base: Source | None, data: str, rows: int, place: Path) -> None:
    samples = _samples(source, base, data, rows)

    def collected() -> dict[str, Tensor]:
        with evaluating(samples.pair.model):
            found = method.collect(samples.pair, samples.batches())
        broken = [key for key, tensor in found.items() if not bool(tensor.isfinite().all())]
        if broken:
            raise NonFiniteError(f"{source.label}: {name} finds NaN or infinity at {broken[0]} on {samples.task.name}")
        return {key: tensor.cpu().contiguous() for key, tensor in found.items()}

    again = source.statistics.fill(place, _key(method, name, samples, base), samples.about, collected)
    done = "taken over from an interrupted merge" if again else "collected"
    log.info("%s: %s on %d rows of %s: %s", source.label, name, len(samples.rows), samples.task.name, done)


def _samples(source: Source, base: Source | None, data: str, count: int) -> Samples:
    pair = _alone(source, base)
    task = task_for(pair, data)
    _check_labels(source.label, task, pair)
    encoder = Encoder(task, pair.tokenizer, pair.base.family, longest_input(pair.base))
    rows = fitting(encoder, task, ["train"]).split("train")
    few = min(len(rows), count)
    return Samples(source, pair, task, rows.select([i * len(rows) // few for i in range(few)]))


def _alone(source: Source, base: Source | None) -> Pair:
    """The model with its own weights as plain Parameters, whatever form its delta has."""
    assert source.folder is not None
    home = source if source.delta is None else base
    assert home is not None and home.folder is not None
    place = home.label if home.label.startswith("zoo:") else str(home.folder)
    wanted: dict[str, Any] = base_wanted(source.folder, place) | {"quantize": None, "revision": None}
    loaded = Base.load(**wanted, dtype=torch.float32)
    card = Card.load(source.folder) if (source.folder / CARD_FILE).exists() else None
    own = hub.load_tokenizer(source.folder) if (source.folder / _TOKENIZER).exists() else None
    pair = Pair(loaded, tokenizer=own, card=card)
    if (delta := source.delta) is not None:
        pair.push(Layer(install_delta(loaded, delta), lambda: delta))
    return pair


def _check_labels(label: str, task: Task, pair: Pair) -> None:
    """Refuse data whose labels the model's head does not have; names that say nothing are compared by their number."""
    names = pair.base.labels if pair.base.view == "labels" else None
    if not names or not task.labels or set(task.labels) <= set(names):
        return
    if all(_NAMELESS.fullmatch(name) for name in names) and len(task.labels) == len(names):
        return
    raise InputError(
        f"{label} answers with {_few(names)}, {task.name} has the labels {_few(task.labels)}; give the task that this "
        "model was tuned on"
    )


def _key(method: Merge, name: str, samples: Samples, base: Source | None) -> str:
    """What the statistics depend on: the method, the model's and its base's files, the rows, the libraries."""
    settings = method.settings.model_dump(mode="json")
    parts: list[Any] = [name, settings, samples.about, samples.task.kind, samples.task.text, samples.task.label]
    parts += [samples.task.labels, samples.task.separator, library_versions()]
    for source in (samples.source, *([base] if base is not None else [])):
        paths = sorted(path for path in source.folder.iterdir() if path.is_file()) if source.folder is not None else []
        parts.append([[str(path.resolve()), os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in paths])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _few(labels: Sequence[str]) -> str:
    return ", ".join(labels[:4]) + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")


def _shown(count: int, label: str) -> Iterator[int]:
    """The numbers of the rows, with a bar on stderr where that is a terminal."""
    from tqdm import tqdm

    yield from tqdm(range(count), desc=label, unit="row", leave=False, disable=not sys.stderr.isatty())
