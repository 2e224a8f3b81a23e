"""The public call: open, compare, plan, stream, check, and put the finished folder in its place."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pairtune import registry
from pairtune.errors import InputError
from pairtune.merging import Merge
from pairtune.merging.engine import stream
from pairtune.merging.engine.layout import INDEX, index, parse_size, shards
from pairtune.merging.engine.plan import Rule, Step, check_method, plan
from pairtune.merging.engine.writer import Writer
from pairtune.merging.inputs.compare import (
    check_same_family,
    check_shapes,
    config_of,
    vocabulary_owner,
    vocabulary_rows,
)
from pairtune.merging.inputs.heads import with_head
from pairtune.merging.inputs.opening import open_sources
from pairtune.merging.inputs.sources import Source
from pairtune.merging.inputs.statistics import kept_beside
from pairtune.merging.inputs.tied import resolve
from pairtune.merging.outputs import beside
from pairtune.merging.outputs.lossy import Form
from pairtune.pair.card import library_versions
from pairtune.pair.files import write_json
from pairtune.pair.staging import resumable_folder

log = logging.getLogger("pairtune")


@dataclass(frozen=True)
class Merged:
    """A finished merge: the folder, and what stands in its card."""

    folder: Path
    card: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A merge that is ready to run: everything compared, nothing read yet."""

    steps: list[Step]
    models: list[Source]
    base: Source | None
    owner: Source
    changes: dict[str, Any]
    dtype: torch.dtype | None

    @property
    def home(self) -> Source:
        """Whose configuration the result takes: the base, or without one the first model."""
        return self.base or self.models[0]


def merge(
    models: Sequence[str | Path],
    out: str | Path,
    method: str | Merge = "linear",
    settings: Mapping[str, Any] | None = None,
    *,
    weights: Sequence[float] | None = None,
    base: str | Path | None = None,
    rules: Callable[[str], Rule] | None = None,
    dtype: str | None = None,
    to: Literal["merged", "delta", "peft"] = "merged",
    rank: int | None = None,
    max_shard_size: str | int = "5GB",
    allow_vocabulary_growth: bool = False,
    check: bool = True,
    threads: int | None = None,
    data: Sequence[str | Path] = (),
    rows: int | None = None,
    sparsify: float | None = None,
    sparsify_by: Literal["global", "layer"] | None = None,
    sign: bool = False,
) -> Merged:
    """Merge models, streaming from disk to disk.

    Args:
        models: checkpoints, PEFT adapters and pairtune folders, mixed freely; local, on the hub, or `zoo:<name>`.
        out: the folder to write. After an interruption the same call goes on where it was.
        method: a name from `pairtune methods merging`, or a configured method.
        settings: of the method that is named.
        weights: one a model; 1 each by default.
        base: the common base; by default the one that the deltas name.
        rules: another rule for each tensor, by its name (see `plan.Rule`), instead of `method`.
        dtype: the stored type of the result ("bfloat16", ...); None keeps that of the base or first model.
        to: "merged" for a checkpoint, "delta" for a pairtune folder, "peft" for a LoRA that PEFT loads.
        rank: of the LoRA; None keeps the factors of the inputs side by side, which is exact.
        max_shard_size: the most that one file of a checkpoint takes.
        allow_vocabulary_growth: merge models of which some have added tokens; see `compare.vocabulary_owner`.
        check: compare the result's outputs with the definition on a few prompts, where two copies fit into memory.
        threads: tensors worked on side by side; by default one a core.
        data: for a method that looks at samples, one task a model, in their order.
        rows: so many rows of each task's training split, evenly spread; by default `samples.ROWS`.
        sparsify: of a delta, the share of its entries that is kept: the largest, exactly so many; ties by place.
        sparsify_by: over what they are chosen: all tensors ("global", the default), or each layer.
        sign: of a delta, keep the sign of every entry of a matrix and one size a tensor (BitDelta).

    Raises `InputError` for inputs that cannot be opened, `BaseMismatch` for models that do not fit together,
    `DeltaMismatch` naming a tensor that is not finite, `DiskFull`, `PairtuneError` where the check fails.
    """
    chosen = method if isinstance(method, Merge) else registry.build("merging", method, settings, f"merge {method}")
    name = method if isinstance(method, str) else _name(chosen)
    if isinstance(method, Merge) and settings:
        raise InputError("settings are for a method that is named; this one has its own already")
    given = _weights(weights, len(models))
    sources, origin = open_sources([str(model) for model in models], None if base is None else str(base))
    if rules is None:
        check_method(chosen, name, len(sources), origin, weights, len(data))
    if rows is not None and not data:
        raise InputError("rows: are those of --data, for a method that looks at data")
    rule = rules or (lambda _: Rule(chosen, given))
    job = prepare(sources, origin, rule, parse_dtype(dtype), allow_vocabulary_growth)

    if rank is not None and to != "peft":
        raise InputError(f"rank: is for a LoRA, --to peft, not for --to {to}")
    form = Form.of(sparsify, sparsify_by, sign, to)

    def record(figures: dict[str, Any]) -> dict[str, Any]:
        shown = chosen.settings.model_dump(mode="json")
        samples = [dict(model.statistics.about) for model in job.models]
        figures = figures | ({"samples": samples} if data else {})
        return beside.card(name, shown, job.models, given if chosen.weighted else None, job.base, figures)

    def finish() -> Merged:
        if to == "delta":
            from pairtune.merging.outputs.as_delta import write_delta

            return Merged(Path(out), write_delta(job, Path(out), threads, check, record, form))
        if to == "peft":
            from pairtune.merging.outputs.as_peft import write_peft

            return Merged(Path(out), write_peft(job, Path(out), rank, check, record))
        return Merged(Path(out), write(job, Path(out), parse_size(max_shard_size), threads, check, record))

    if not data:
        return finish()
    from pairtune.merging.inputs import samples

    with kept_beside(Path(os.path.realpath(out))) as place:
        tasks = [str(one) for one in data]
        samples.collect(chosen, name, job.models, job.base, tasks, samples.ROWS if rows is None else rows, place)
        return finish()


def prepare(
    models: Sequence[Source],
    base: Source | None,
    rule: Callable[[str], Rule],
    dtype: torch.dtype | None = None,
    allow_vocabulary_growth: bool = False,
) -> Job:
    """Compare the sources and plan. Raises `BaseMismatch` with a table of what differs."""
    home = base or models[0]
    check_same_family(models, home)
    owner = vocabulary_owner(models, home, allow_vocabulary_growth)
    models, base, untied = resolve(models, base)
    home = base or models[0]
    check_shapes(models, home, allow_vocabulary_growth)
    rows = vocabulary_rows(config_of(home))
    tokens = (name for name in home.names if home.shape(name)[:1] == (rows,))
    steps = plan(models, base, rule, frozenset(tokens if allow_vocabulary_growth else ()), dtype)
    changes: dict[str, Any] = {"tie_word_embeddings": False} if untied else {}
    grown = {step.shape[0] for step in steps if step.edges}
    if grown:
        changes["vocab_size"] = max(grown)
    return Job(steps, list(models), base, owner, changes, dtype)


def write(
    job: Job, out: Path, most: int, threads: int | None, check: bool, record: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Stream a job into its folder; the card that was written is handed back."""
    steps, head = with_head(job.steps, job.models, job.home)
    cost = stream.cost(steps, threads)
    log.info("%s", describe(cost, len(steps)))
    files = shards(steps, most)
    with resumable_folder(out) as (folder, known):
        with Writer(folder, files, identity(job, most)) as writer:
            measured = stream.run(steps, writer, cost.threads)
        known.update(writer.finish())
        if len(files) > 1:
            write_json(folder / INDEX, index(files))
        beside.write_beside(folder, job.home, job.owner, {**job.changes, **head}, job.dtype)
        figures = stream.figures(cost, measured, len(job.steps))
        if check:
            from pairtune.merging.outputs.check import check_outputs

            figures["check"] = check_outputs(job, folder)
        card = record(figures)
        write_json(folder / beside.CARD_FILE, card)
        (folder / "README.md").write_text(beside.readme(card), encoding="utf-8")
    return card


def describe(cost: stream.Cost, tensors: int) -> str:
    """What a merge will take, in one line."""
    return (
        f"merge: {tensors} tensors, {cost.read / 1e9:.2f} GB to read, {cost.write / 1e9:.2f} GB to write, "
        f"{cost.threads} thread{'s' if cost.threads > 1 else ''}, at most {cost.memory / 1e6:.0f} MB of memory"
    )


def identity(job: Job, most: int) -> str:
    """A hash of everything that decides the result's bytes, input files included (by place, size and time)."""
    rows: list[Any] = [library_versions(), most]
    for source in (*job.models, *([job.base] if job.base else [])):
        paths = sorted(source.folder.glob("*.safetensors")) if source.folder is not None else []
        rows.append([[str(path.resolve()), os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in paths])
        rows.append(source.statistics.key)
    for step in job.steps:
        method, weights = (step.rule.method, step.rule.weights) if step.rule is not None else (None, ())
        what = None if method is None else [_name(method), method.settings.model_dump(mode="json"), list(weights)]
        places = [*step.inputs, *([step.base] if step.base else []), *([step.copied] if step.copied else [])]
        rows.append([step.name, str(step.dtype), list(step.shape), what, [[p.source.label, p.name] for p in places]])
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def parse_dtype(name: str | None) -> torch.dtype | None:
    """A floating-point type by its name in torch. Raises `InputError` for another."""
    if name is None:
        return None
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < 2:
        raise InputError(f"dtype: expected bfloat16, float16, float32 or float64, found {name!r}")
    return found


def _weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    given = tuple(float(weight) for weight in weights) if weights is not None else (1.0,) * count
    if len(given) != count:
        raise InputError(f"expected one weight for each of the {count} models, found {len(given)}")
    return given


def _name(method: Merge) -> str:
    """What people type for a configured method: its file's name."""
    return type(method).__module__.rpartition(".")[2].replace("_", "-")
