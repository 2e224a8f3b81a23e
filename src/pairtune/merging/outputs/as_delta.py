"""A merge written as a delta of pairtune's own: what the result adds to the base, as compact as it is.

Sums of low-rank or sparse changes stay low-rank or sparse, without rounding. Everything else is stored as the merged
values themselves, so that base + delta is bit for bit the checkpoint that `--to merged` writes. In a lossy form
(`lossy.py`) the largest entries or the signs are kept; what that leaves out is measured by layer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from pairtune.errors import InputError
from pairtune.merging.engine import stream
from pairtune.merging.engine.layout import one_file
from pairtune.merging.engine.plan import Step
from pairtune.merging.engine.run import Job, describe, identity
from pairtune.merging.engine.writer import Writer
from pairtune.merging.inputs.sources import Source
from pairtune.merging.outputs import beside
from pairtune.merging.outputs.lossy import Form, Kept, errors, keep, tensors_of
from pairtune.merging.outputs.low_rank import compact_sum, is_own
from pairtune.pair.card import CARD_FILE, BaseRecord, Card, LayerRecord, library_versions
from pairtune.pair.delta_io import FORMAT, VERSION, load_delta
from pairtune.pair.files import write_json
from pairtune.pair.installed import DELTA_FILE
from pairtune.pair.staging import resumable_folder

log = logging.getLogger("pairtune")


def write_delta(
    job: Job,
    out: Path,
    threads: int | None,
    check: bool,
    record: Callable[[dict[str, Any]], dict[str, Any]],
    form: Form | None = None,
) -> dict[str, Any]:
    """Write a job's result as a pairtune folder; the merge's record, which lies in it too, is handed back.

    With a lossy form, heads stay as they are, and with signs vectors (norms, biases) too; the record has the error of
    each layer. Raises `InputError` where there is no base, and for models with added tokens.
    """
    if job.base is None:
        raise InputError("--to delta: a delta stands on a base; give it with --base")
    kept = {} if form is None else _lossy(job.steps, job.base, form)
    steps, notes, compact = _stored([step for step in job.steps if step.name not in kept], job.base)
    notes |= {name: one.notes for name, one in kept.items() if one.entries}
    if not notes:
        raise InputError("the result equals its base: there is no delta between them")
    announced = compact | {key: empty for one in kept.values() if one.entries for key, empty in one.announced.items()}
    cost = stream.cost(steps, threads)
    if form is None:
        log.info("%s", describe(cost, len(steps) + len(announced)))
    metadata = {"format": FORMAT, "version": VERSION, "parts": json.dumps(notes), "record": "{}"}
    file = one_file(DELTA_FILE, steps, metadata, announced)
    with resumable_folder(out) as (folder, known):
        with Writer(folder, [file], f"delta {form} {identity(job, 0)}") as writer:
            for key, tensor in compact.items():
                writer.put(key, [tensor])
            for name, one in kept.items():
                if one.announced.keys() - writer.digests.keys() and one.entries:
                    for key, tensor in tensors_of(name, one):
                        writer.put(key, [tensor])
            measured = stream.run(steps, writer, cost.threads)
        known.update(writer.finish())
        figures = stream.figures(cost, measured, len(notes))
        if form is not None:
            load_delta(folder / DELTA_FILE)  # looks at every number
            total = sum(math.prod(step.shape) for step in job.steps if step.name in kept)
            entries = [sum(one.entries for one in kept.values()), total]
            figures["bytes"]["written"] = file.size
            figures |= {"form": form.about, "entries": entries, "layers": errors(kept)}
        elif check:
            from pairtune.merging.outputs.check import check_delta

            figures["check"] = check_delta(job, folder / DELTA_FILE)
        made = record(figures)
        write_json(folder / beside.CARD_FILE, made)
        _card(job, made, folder / DELTA_FILE).save(folder)
    return made


def _lossy(steps: Sequence[Step], base: Source, form: Form) -> dict[str, Kept]:
    """What the form keeps of the tensors that it is for: of those that the base has, and with signs of matrices."""
    least = 0 if form.density is not None else 2
    there = [step for step in steps if step.name in base.names and step.dtype.is_floating_point]
    if grown := next((step.name for step in there if step.edges), None):
        raise InputError(f"{grown}: --to delta cannot hold rows that only some models have; take --to merged")
    changed = [step for step in there if not is_own(step, base) and len(step.shape) >= least]
    times = "four times" if form.density is not None else "twice"
    log.info("delta: %d tensors to read %s: to choose what is kept, and to write it", len(changed), times)
    return keep(changed, base, form)


def _stored(steps: Sequence[Step], base: Source) -> tuple[list[Step], dict[str, Any], dict[str, Tensor]]:
    """The steps that are streamed (each with the key that it gets), the notes of all parts, and compact tensors."""
    streamed: list[Step] = []
    notes: dict[str, Any] = {}
    compact: dict[str, Tensor] = {}
    for step in steps:
        if step.edges:
            raise InputError(f"{step.name}: --to delta cannot hold rows that only some models have; take --to merged")
        if is_own(step, base):
            continue
        part = compact_sum(step)
        if part is not None:
            notes[step.name] = part.notes()
            compact |= {f"{step.name}::{ending}": tensor.contiguous() for ending, tensor in part.tensors().items()}
            continue
        new = step.name not in base.names
        notes[step.name] = {"kind": "module", "scales": False} if new else {"kind": "value"}
        streamed.append(replace(step, stored_as=f"{step.name}::{'module' if new else 'value'}"))
    return streamed, notes, compact


def _card(job: Job, made: dict[str, Any], file: Path) -> Card:
    known = next((card for model in job.models if (card := _card_of(model)) is not None), None)
    assert job.base is not None
    base = known.base if known is not None else base_record(job.base)
    with file.open("rb") as stored:
        files = {DELTA_FILE: hashlib.file_digest(stored, "sha256").hexdigest()}
    parents = [str(parent["source"]) for parent in made["models"]]
    return Card(
        base=base,
        stack=[LayerRecord(source=f"{made['method']} of {', '.join(parents)}", files=files)],
        task=known.task if known is not None else None,
        parents=parents,
        versions=library_versions(),
        notes=[f"merged by pairtune; {beside.CARD_FILE} has the record"],
    )


def _card_of(model: Source) -> Card | None:
    return Card.load(model.folder) if model.folder is not None and (model.folder / CARD_FILE).exists() else None


def base_record(base: Source) -> BaseRecord:
    """What a card says of a base that no delta among the inputs has a card of; loads the base to know its own names."""
    from pairtune.pair.base import Base

    assert base.folder is not None
    source = base.label if base.label.startswith("zoo:") else str(base.folder)
    loaded = Base.load(source)
    return BaseRecord(source=base.label, fingerprint=loaded.fingerprint.to_json())
