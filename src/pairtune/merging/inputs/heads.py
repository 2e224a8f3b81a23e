"""A head that deltas bring along: the configuration that the result needs so that transformers loads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from pairtune.errors import BaseMismatch, InputError
from pairtune.merging.engine.plan import Step
from pairtune.merging.inputs.sources import Source
from pairtune.pair.base import family_of
from pairtune.pair.card import CARD_FILE, Card
from pairtune.pair.heads import HEAD_KINDS, model_class
from pairtune.pair.names import Names


def with_head(steps: list[Step], models: Sequence[Source], home: Source) -> tuple[list[Step], dict[str, Any]]:
    """The steps with the names that a model with a head has on disk, and what its configuration says besides.

    Without a new head, the steps as they are. Raises `BaseMismatch` for heads with other labels, `InputError` where the
    deltas do not say what their head is for.
    """
    new = [step.name for step in steps if any(model.is_new(step.name) for model in models)]
    if not new:
        return steps, {}
    tasks = {model.label: task for model in models if any(model.is_new(name) for name in new) if (task := _task(model))}
    if not tasks:
        raise InputError(
            f"the deltas bring a head ({new[0]}) and none of them says what it answers; write a delta (--to delta), "
            "which needs no configuration"
        )
    first, *others = tasks
    for other in others:
        if tasks[other] != tasks[first]:
            raise BaseMismatch(
                f"{first} answers with {tasks[first][1]}, {other} with {tasks[other][1]}; heads with other labels "
                "cannot be merged"
            )
    kind, labels = tasks[first]
    model, changes = _classifier(home, kind, labels)
    prefix = model.base_model_prefix
    if not any(name.startswith(prefix + ".") for name in home.names):
        steps = [step if step.name in new else replace(step, stored_as=f"{prefix}.{step.name}") for step in steps]
    names = Names(model, [step.key for step in steps])
    # What the model with a head does not have (a pooler, CLIP's text tower) would make its checkpoint unreadable.
    return [step for step in steps if names.memory(step.key) is not None], changes


def _task(model: Source) -> tuple[str, list[str]] | None:
    """Kind and labels of the task that a delta was tuned on."""
    if model.folder is None or not (model.folder / CARD_FILE).exists():
        return None
    task = Card.load(model.folder).task or {}
    if task.get("kind") not in HEAD_KINDS:
        return None
    labels = ["value"] if task["kind"] == "regression" else [str(label) for label in task.get("labels") or []]
    return task["kind"], labels


def _classifier(home: Source, kind: str, labels: list[str]) -> tuple[Any, dict[str, Any]]:
    """The base with a head for these labels, without memory for its tensors, and what its configuration says besides.

    Raises `InputError` where transformers has no head for it.
    """
    from pairtune.pair import hub

    assert home.folder is not None
    config = hub.load_config(home.folder)
    found = model_class(config, family_of(config), kind, labels)
    auto_class: Any = found[0]
    settings = found[1]
    changes = {
        "problem_type": HEAD_KINDS[kind],
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    made = settings.pop("config", None)
    if (
        made is not None and config.model_type != made.model_type
    ):  # an image tower alone becomes a part of its classifier
        changes |= {"model_type": made.model_type, "vision_config": config.to_dict()}
    for name, value in settings.items():
        setattr(config, name, value)
    with torch.device("meta"):
        model = auto_class._from_config(made) if made is not None else auto_class.from_config(config)
    return model, {"architectures": [type(model).__name__], **changes}
