"""What stays of a run: the pair's folder with its card, and a copy on the hub where one is asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairtune.pair.card import BaseRecord, Card
from pairtune.training import folders

if TYPE_CHECKING:
    from pairtune.data import Task
    from pairtune.pair.pair import Pair
    from pairtune.training.config import RunConfig

log = logging.getLogger("pairtune")


def card_of(pair: Pair, config: RunConfig, task: Task, record: Mapping[str, Any]) -> Card:
    """What is remembered of the run: base, task, seed, the metrics of the last stage's best checkpoint."""
    return Card(
        base=BaseRecord.of(pair.base),
        stack=[],
        task={
            "name": task.name,
            "kind": task.kind,
            "text": list(task.text),
            "label": task.label,
            "labels": list(task.labels),
            "separator": task.separator,
            **({"chat": True} if task.is_chat else {}),
        },
        seed=config.seed,
        metrics=dict(record.get("metrics", {})),
        parents=[config.start] if config.start is not None else [],
        notes=list(record.get("drift", [])),
    )


def save(pair: Pair, out: Path, repository: str | None) -> None:
    """Write the pair's folder (the first process does), and push it where a hub repository is named."""
    if folders.process()[0]:
        return
    pair.save(out)
    log.info("saved %s", out)
    push(out, repository)


def push(out: Path, repository: str | None) -> None:
    """Copy a pair's folder to a hub repository, where one is named (the first process does)."""
    if repository and not folders.process()[0]:
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=out, commit_message="A delta made by pairtune")
        log.info("pushed to %s", repository)
