"""A small encoder, pretrained here on both languages: much of A and a little of B, by hidden tokens."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pairtune.data.collate import Collator
from pairtune.data.encode import Encoder
from pairtune.data.masking import Masker
from pairtune.data.task import Task
from pairtune.objectives.token_nll import summed_nll
from pairtune.pair.complete import is_complete
from pairtune.pair.staging import staged_folder
from pairtune.reproductions.composable.world import TEXT, tokenizer_of

log = logging.getLogger("pairtune")
BATCH = 32


def pretrain(folder: Path, tasks: Path, settings: Mapping[str, Any]) -> Path:
    """A `BertForMaskedLM`, trained on the tasks `a` and `b` together, written to a folder.

    Its embeddings, tied to the output, begin with word vectors of the same texts (`company`), all else at random. AdamW
    at a peak of 2e-3 with a tenth of warm-up and a linear fall. It is the same in every run: its seed is fixed.
    """
    from transformers import BertForMaskedLM, get_linear_schedule_with_warmup

    if is_complete(folder):
        return folder
    tokenizer = tokenizer_of(tasks)
    length, steps = settings["words"] + 2, settings["pretraining"]
    rows = [row for name in ("a", "b") for row in _encoded(tasks / name, tokenizer, length)]
    rows = [{**row, "index": i} for i, row in enumerate(rows)]
    masker, collate = Masker(tokenizer, len(tokenizer), 0.15, seed=0), Collator(tokenizer, "encoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForMaskedLM(_config(len(tokenizer), length, settings)).train()
        _begin_with(model, company([row["input_ids"] for row in rows], len(tokenizer), settings["width"]))
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01, fused=True)
        schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
        order = np.random.default_rng(0)
        for step in range(steps):
            chosen = [rows[i] for i in order.integers(0, len(rows), BATCH)]
            batch = collate(masker(chosen, step))
            labels = batch.pop("labels")
            batch.pop("index")
            loss = summed_nll(model(**batch).logits, labels) / (labels >= 0).sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if step % 100 == 99:
                log.info("pretraining, step %d of %d: loss %.3f", step + 1, steps, loss.item())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with staged_folder(folder) as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
    return folder


def company(rows: list[list[int]], vocabulary: int, width: int) -> np.ndarray:
    """[vocabulary, width] vectors of words by the company that they keep: what a long pretraining would learn first.

    The leading singular vectors, times the roots of their values, of the positive pointwise mutual information of words
    in one text (Levy and Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", 2014).
    """
    there = np.zeros((len(rows), vocabulary), dtype=np.float32)
    for i, row in enumerate(rows):
        there[i, row] = 1.0
    both = there.T @ there
    alone = both.diagonal().copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(both * len(rows) / np.outer(alone, alone))
    information[~np.isfinite(information)] = 0.0
    np.fill_diagonal(information, 0.0)
    left, values, _ = np.linalg.svd(information.clip(min=0.0))
    return left[:, :width] * np.sqrt(values[:width])


def _begin_with(model: Any, vectors: np.ndarray) -> None:
    """Put word vectors into the embeddings, at the scale that these have."""
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        found = torch.zeros_like(weight)
        found[:, : vectors.shape[1]] = torch.from_numpy(vectors)[:, : weight.shape[1]]
        weight.copy_(found * (weight.std() / found.std()))


def _config(vocabulary: int, length: int, settings: Mapping[str, Any]) -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=settings["width"],
        intermediate_size=2 * settings["width"],
        num_attention_heads=4,
        num_hidden_layers=settings["layers"],
        max_position_embeddings=length,
        pad_token_id=0,
    )


def _encoded(folder: Path, tokenizer: Any, length: int) -> list[dict[str, Any]]:
    task = Task.load(folder, splits={"validation": None}, **TEXT)
    rows = [row for split in task.splits.values() for row in split]
    return Encoder(task, tokenizer, "encoder", length, view="masked").many(rows)
