"""The loop in which the zoo's small encoders of images and sound are pretrained: resumable in slices, exactly.

From its class token an encoder is to name the classes of made and drawn items, each among those of its kind, and to
tell how the items look (`encoder_aims.py`).

What an item is depends on its number and the seed alone, and the rate of learning on the number of items seen, so that
a run that was stopped (Ctrl-C, `--minutes`) and goes on is the run that was not.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from pairtune.zoo import lm_checkpoint
from pairtune.zoo.encoder_aims import aims

# (number of the first, how many) → inputs [n, ...], classes [n], the clean pictures or spectrograms [n, 1, h, w]
Items = Callable[[int, int], tuple[Tensor, np.ndarray, Tensor]]


class Learner(nn.Module):
    """An encoder and what teaches it: a linear map to classes and one to aims, which stay behind.

    Args:
        front: how many class tokens the encoder has; their mean is what the maps read.
        kinds: of each class [classes], the number of its kind. aims: how many of them.
    """

    def __init__(self, encoder: PreTrainedModel, front: int, kinds: np.ndarray, aims: int):
        super().__init__()
        width: int = encoder.config.hidden_size
        self.config = encoder.config.to_dict()
        self.encoder, self.front, self.kinds = encoder, front, torch.from_numpy(kinds)
        self.names, self.looks = nn.Linear(width, len(kinds)), nn.Linear(width, aims)

    def forward(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """([n, classes] logits, -inf for classes of another kind than the label's; [n, aims])."""
        pooled = self.encoder(inputs).last_hidden_state[:, : self.front].mean(1)
        apart = self.kinds[None] != self.kinds[labels][:, None]
        return self.names(pooled).float().masked_fill(apart, -torch.inf), self.looks(pooled).float()


def items_of(source: Any, held: bool = False) -> Items:
    """A source's items by number; `held`: those that training never sees."""
    return lambda first, count: source.batch(first, count, held)


def waves(rows: int, columns: int, width: int) -> Tensor:
    """[rows columns, width] sines and cosines of a patch's row and column, from which position embeddings start.

    The slowest wave is long against either side, the quickest turns once in six patches of eight pixels.
    """
    slow = 100.0 ** (-torch.arange(width // 4) / (width // 4))
    lines = [torch.arange(count)[:, None] * 8 * slow for count in (rows, columns)]
    down, across = (torch.cat([line.sin(), line.cos()], 1) for line in lines)
    both = [down[:, None].expand(rows, columns, -1), across[None].expand(rows, columns, -1)]
    return torch.cat(both, 2).reshape(rows * columns, -1)


def rate(items: int, args: argparse.Namespace) -> float:
    """Share of the peak learning rate after so many items: warm-up over a twentieth, then down to zero in a line."""
    up = min(1.0, (items + 1) / max(1, args.total_items // 20))
    return max(0.0, min(up, (args.total_items - items) / (0.6 * args.total_items), 1.0))


def make_optimizers(model: Learner, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the encoder's layers, AdamW for the rest; what has two or more dimensions decays."""
    matrices = [p for p in model.encoder.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    settings = {"momentum": 0.95, "weight_decay": args.weight_decay, "adjust_lr_fn": "match_rms_adamw"}
    return [
        torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=True),
        torch.optim.Muon(matrices, lr=args.lr, **settings),
    ]


def loss_of(model: Learner, items: Items, first: int, args: argparse.Namespace) -> tuple[Tensor, dict[str, float]]:
    """Mean loss over a batch, and figures for the log: `unseen` is the share of the aims' variance that is not told."""
    inputs, classes, clean = items(first, args.batch)
    labels = torch.from_numpy(classes)
    with torch.autocast("cpu", torch.bfloat16):  # products alone; weights and sums stay float32
        logits, told = model(inputs, labels)
    naming, missed = F.cross_entropy(logits, labels), F.mse_loss(told, aims(clean))
    right = (logits.argmax(-1) == labels).float().mean().item()
    return naming + args.looks * missed, {"naming": naming.item(), "unseen": missed.item(), "accuracy": right}


@torch.inference_mode()
def held_out(model: Learner, items: Items, kinds: tuple[str, ...], count: int = 4096) -> dict[str, float]:
    """Share of items that are named rightly among the classes of their kind, by kind.

    Args:
        items: those that training never sees. kinds: their names.
    """
    model.eval()
    right: dict[str, list[bool]] = {kind: [] for kind in kinds}
    for first in range(0, count, 256):
        inputs, classes, _ = items(first, 256)
        labels = torch.from_numpy(classes)
        found = model(inputs, labels)[0].argmax(-1)
        for kind, hit in zip(model.kinds[labels].tolist(), (found == labels).tolist(), strict=True):
            right[kinds[kind]].append(hit)
    return {name: float(np.mean(values)) for name, values in right.items() if values}


def train(model: Learner, items: Items, about: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Run (or go on) until `total_items`, a signal, or `--minutes`; returns the state that was saved last.

    Args:
        about: what a run must share with the one that it goes on from; kept in its state.
    """
    torch.set_num_threads(args.threads)
    optimizers, stop = make_optimizers(model, args), {"now": False}
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.update(now=True))
    about = json.loads(json.dumps({**about, "config": model.config}))
    state: dict[str, Any] = {"step": 0, "items": 0, "seconds": 0.0, **about}
    before = lm_checkpoint.latest(args.out)
    if before:
        stored = json.loads((before / "state.json").read_text(encoding="utf-8"))
        differing = [key for key, value in about.items() if stored.get(key) != value]
        if differing:
            raise SystemExit(f"{before} is of another run: {', '.join(differing)} differ")
        state = lm_checkpoint.load(before, model, optimizers)
        print(f"resumed {before.name}: {state['items']:,} items", flush=True)
    start = logged = saved = time.monotonic()
    first, earlier, seen = state["items"], state["seconds"], []
    while state["items"] < args.total_items and not stop["now"]:
        share = rate(state["items"], args)
        loss, figures = loss_of(model, items, state["items"], args)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        if not norm < float("inf"):
            raise SystemExit(f"gradient norm {norm} at step {state['step']}; the last checkpoint is kept")
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.lr * share
            optimizer.step()
        model.zero_grad()
        state["step"] += 1
        state["items"] += args.batch
        seen.append(figures)
        now = time.monotonic()
        state["seconds"] = earlier + now - start
        if now - logged > args.log_seconds:
            state["figures"] = {name: sum(one[name] for one in seen) / len(seen) for name in seen[0]}
            speed = (state["items"] - first) / (now - start)
            said = " ".join(f"{name} {value:.4f}" for name, value in state["figures"].items())
            left = (args.total_items - state["items"]) / speed / 60
            print(f"items {state['items']:,} {said} {speed:.0f} items/s left {left:.0f} min", flush=True)
            logged, seen = now, []
        if now - saved > args.save_seconds:
            lm_checkpoint.save(args.out, model, optimizers, state)
            saved = now
        if args.minutes and now - start > 60 * args.minutes:
            break
    lm_checkpoint.save(args.out, model, optimizers, state)
    print(f"saved step {state['step']}: {state['items']:,} items", flush=True)
    return state


def parser(doc: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """The options that every such run has; `defaults` are further ones, and their defaults."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, required=True, help="folder of checkpoints; an earlier run there goes on")
    common = {"batch": 64, "lr": 6e-3, "weight-decay": 0.05, "looks": 20.0, "seed": 0, "threads": 1, "minutes": 0.0}
    for name, default in {**common, "log-seconds": 15.0, "save-seconds": 120.0, **defaults}.items():
        made.add_argument(f"--{name}", type=type(default), default=default, help=f"default {default:,}")
    return made
