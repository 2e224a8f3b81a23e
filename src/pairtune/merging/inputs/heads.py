"""A head that deltas bring along: the configuration that the result needs so that transformers loads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pairtune.errors import BaseMismatch, InputError
from pairtune.merging.engine.plan import Step
from pairtune.merging.inputs.compare import config_of
from pairtune.merging.inputs.sources import Source
from pairtune.pair.card import CARD_FILE, Card
from pairtune.pair.heads import HEAD_KINDS
from pairtune.pair.modality import modality_of


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
    name, prefix = _head_class(home)
    own = [step if step.name in new else replace(step, stored_as=f"{prefix}.{step.name}") for step in steps]
    changes = {
        "architectures": [name],
        "problem_type": HEAD_KINDS[kind],
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    return own if not any(n.startswith(prefix + ".") for n in home.names) else steps, changes


def _task(model: Source) -> tuple[str, list[str]] | None:
    """Kind and labels of the task that a delta was tuned on."""
    if model.folder is None or not (model.folder / CARD_FILE).exists():
        return None
    task = Card.load(model.folder).task or {}
    if task.get("kind") not in HEAD_KINDS:
        return None
    labels = ["value"] if task["kind"] == "regression" else [str(label) for label in task.get("labels") or []]
    return task["kind"], labels


def _head_class(home: Source) -> tuple[str, str]:
    """transformers' class with a classification head for this base, and the prefix of the base's names in it."""
    import transformers

    from pairtune.pair import hub

    assert home.folder is not None
    config = hub.load_config(home.folder)
    mapping = getattr(transformers, modality_of(config).auto_class)._model_mapping
    if type(config) not in mapping.keys():
        raise InputError(f"transformers has no classification head for {config_of(home).get('model_type')}")
    found: Any = mapping[type(config)]
    return found.__name__, found.base_model_prefix
