"""The loop in which the zoo's small encoders of images and sound are pretrained: resumable in slices, exactly.

They learn to name the classes of made and drawn items. Of each item's patches a random share is seen, which saves most
of the work; all of them in the last tenth of the run.

What an item is depends on its number and the seed alone, and the rate of learning on the number of items seen, so that
a run that was stopped (Ctrl-C, `--minutes`) and goes on is the run that was not.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pairtune.zoo import lm_checkpoint

Loss = Callable[[int, int], tuple[Tensor, dict[str, float]]]
Items = Callable[[int, int], tuple[Tensor, np.ndarray]]  # (number of the first, how many) → inputs and classes [n]
Named = Callable[[Tensor, Tensor | None], Tensor]  # (inputs, patches that are seen [n, k] or all) → [n, classes]


def rate(items: int, args: argparse.Namespace) -> float:
    """Share of the peak learning rate after so many items: warm-up over a twentieth, then down to zero in a line."""
    up = min(1.0, (items + 1) / max(1, args.total_items // 20))
    return max(0.0, min(up, (args.total_items - items) / (0.6 * args.total_items), 1.0))


def make_optimizer(model: nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    """AdamW; weights with two or more dimensions decay."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=True)


def naming(items: Items, named: Named, count: int, args: argparse.Namespace) -> Loss:
    """The loss of naming items by a share of their patches.

    Args:
        count: patches of an item, of which `args.keep` are seen.
    """

    def loss_of(first: int, size: int) -> tuple[Tensor, dict[str, float]]:
        inputs, labels = items(first, size)
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + first)
        every = torch.rand(size, count, generator=generator).argsort(1)
        last = first >= 0.9 * args.total_items
        kept = None if last else every[:, : max(1, int(args.keep * count))]
        with autocast():
            found = named(inputs, kept).float()
        wanted = torch.from_numpy(labels)
        loss = F.cross_entropy(found, wanted, label_smoothing=0.1)
        right = (found.argmax(-1) == wanted).float().mean().item()
        return loss, {"loss": loss.item(), "accuracy": right}

    return loss_of


def through(blocks: Iterable[nn.Module], hidden: Tensor, front: int, kept: Tensor | None) -> Tensor:
    """What the blocks make of [n, front + patches, d]; of the patches only those at `kept` [n, k] are there."""
    if kept is not None:
        chosen = hidden[:, front:].gather(1, kept[..., None].expand(-1, -1, hidden.shape[-1]))
        hidden = torch.cat([hidden[:, :front], chosen], dim=1)
    for block in blocks:
        hidden = block(hidden)
    return hidden


@torch.inference_mode()
def held_out(
    model: nn.Module, items: Items, border: int, kinds: tuple[str, str], count: int = 2048
) -> dict[str, float]:
    """Share of items that are named rightly, by kind.

    Args:
        items: those that training never sees. border: number of classes of the first kind, which come first.
    """
    model.eval()
    right: dict[str, list[bool]] = {kind: [] for kind in kinds}
    for first in range(0, count, 256):
        inputs, labels = items(first, 256)
        found = model(inputs).logits.argmax(-1).numpy()
        for label, answer in zip(labels, found, strict=True):
            right[kinds[int(label >= border)]].append(bool(label == answer))
    return {name: float(np.mean(values)) for name, values in right.items()}


def train(model: nn.Module, loss_of: Loss, about: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Run (or go on) until `total_items`, a signal, or `--minutes`; returns the state that was saved last.

    Args:
        loss_of: (number of the first item, items) → mean loss, and figures for the log.
        about: what a run must share with the one that it goes on from; kept in its state.
    """
    torch.set_num_threads(args.threads)
    optimizer, stop = make_optimizer(model, args), {"now": False}
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.update(now=True))
    about = json.loads(json.dumps(about))
    state: dict[str, Any] = {"step": 0, "items": 0, "seconds": 0.0, **about}
    before = lm_checkpoint.latest(args.out)
    if before:
        state = lm_checkpoint.load(before, model, [optimizer])
        differing = [key for key, value in about.items() if state.get(key) != value]
        if differing:
            raise SystemExit(f"{before} is of another run: {', '.join(differing)} differ")
        print(f"resumed {before.name}: {state['items']:,} items", flush=True)
    start = logged = saved = time.monotonic()
    first, earlier, seen = state["items"], state["seconds"], []
    while state["items"] < args.total_items and not stop["now"]:
        share = rate(state["items"], args)
        loss, figures = loss_of(state["items"], args.batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        if not norm < float("inf"):
            raise SystemExit(f"gradient norm {norm} at step {state['step']}; the last checkpoint is kept")
        for group in optimizer.param_groups:
            group["lr"] = args.lr * share
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
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
            lm_checkpoint.save(args.out, model, [optimizer], state)
            saved = now
        if args.minutes and now - start > 60 * args.minutes:
            break
    lm_checkpoint.save(args.out, model, [optimizer], state)
    print(f"saved step {state['step']}: {state['items']:,} items", flush=True)
    return state


def parser(doc: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """The options that every such run has; `defaults` are further ones, and their defaults."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, required=True, help="the data folder (PAIRTUNE_DATA)")
    made.add_argument("--out", type=Path, required=True, help="folder of checkpoints; an earlier run there goes on")
    common = {"batch": 64, "lr": 1e-3, "weight-decay": 0.05, "seed": 0, "threads": 1, "minutes": 0.0}
    for name, default in {**common, "log-seconds": 15.0, "save-seconds": 120.0, **defaults}.items():
        made.add_argument(f"--{name}", type=type(default), default=default, help=f"default {default:,}")
    return made


def autocast() -> Any:
    """Products in bfloat16; weights and sums stay float32."""
    return torch.autocast("cpu", torch.bfloat16)
