"""Every tuner on one model: what trains, what a step keeps, how long it takes, beside PEFT's own LoRA; one table.

The model is a random Llama with the zoo's tokenizer (`--size`), the loss the vocabulary's, computed in slices for all,
on random tokens. Trained numbers, bytes that a forward keeps for its backward (weights not counted), seconds of a step
(forward, backward, AdamW), contenders taken in turn. `--peak` adds each one's peak of anonymous memory, in a process of
its own. Tuners that serve no causal model, or need settings to be named, are left out and said so.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from _harness import finish, interleave
from lora_training import prepare
from pairtune import registry
from pairtune.objectives.token_nll import next_tokens, summed_nll
from pairtune.pair.base import Base
from pairtune.pair.outputs import Outputs
from pairtune.training.memory import SavedBytes

SETTINGS: dict[str, dict[str, Any]] = {"sparse": {"choose": "random"}, "lora": {"r": 8, "alpha": 32}, "corda": {"r": 8}}
PEFT = "PEFT's LoRA"


class Contender:
    """A tuner on its own copy of the model."""

    def __init__(self, folder: Path, name: str, rows: int, length: int):
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(5, 4000, (rows, length), generator=generator)
        self.batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        torch.manual_seed(0)
        self.model: torch.nn.Module
        if name == PEFT:
            model = AutoModelForCausalLM.from_pretrained(folder / "base")
            config = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
            self.model = get_peft_model(model, config)
            self.trained = [p for p in self.model.parameters() if p.requires_grad]
        else:
            base = Base.load(folder / "base", device="cpu")
            base.model.config.use_cache = False
            tuner = registry.build("tuners", name, SETTINGS.get(name, {}))
            installed = tuner.install(base, base.model, [self.batch])
            self.model = installed.model.train()
            for outer in installed.frozen_modules():
                outer.eval()
            self.trained = [p for _, p in installed.trainable() if p.requires_grad]
        self.count = sum(p.numel() for p in self.trained) if name == PEFT else installed.count()
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4)

    def loss(self) -> torch.Tensor:
        """Of every view."""
        more = {"use_cache": False} if isinstance(self.model, torch.nn.Module) else {}
        out = Outputs.of(self.model(**self.batch, **more))
        labels = next_tokens(self.batch["input_ids"])
        return sum((w * summed_nll(view, labels) for view, w in out.views if view.ndim == 3), torch.tensor(0.0))

    def saved(self) -> int:
        """Bytes that a forward keeps for its backward."""
        with SavedBytes(self.model) as counted:
            self.loss()
        return counted.bytes

    def step(self) -> None:
        """One optimizer step."""
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()


def names() -> tuple[list[str], list[str]]:
    """Contenders, and tuners that are left out."""
    out = []
    for name in registry.methods("tuners"):
        cls = registry.load("tuners", name)
        needed = [setting for setting in registry.find("tuners", name).settings if setting.required]
        if "causal" not in cls.families or "tokens" not in cls.provides or needed:
            out.append(name)
    return [PEFT, *(name for name in registry.methods("tuners") if name not in out)], out


def peak(folder: Path, name: str, rows: int, length: int) -> int:
    """Peak resident bytes of three steps in a fresh process."""
    command = [
        sys.executable,
        __file__,
        "--alone",
        name,
        "--folder",
        str(folder),
        "--rows",
        str(rows),
        "--length",
        str(length),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["small", "gpt2"], default="small")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", action="store_true", help="also the peak memory of each, in its own process")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.getLogger("pairtune").setLevel(logging.ERROR)
    if arguments.alone:
        one = Contender(arguments.folder, arguments.alone, arguments.rows, arguments.length)
        for _ in range(3):
            one.step()
        print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, arguments.size)
        chosen, out = names()
        shape = (arguments.rows, arguments.length)
        contenders = {one: Contender(folder, one, *shape) for one in chosen}
        steps: dict[str, Callable[[], object]] = {one: contender.step for one, contender in contenders.items()}
        timings = interleave(steps, arguments.repeats)
        figures: dict[str, Any] = {"left out": ", ".join(out)}
        print(f"  {'tuner':<20}{'trained':>12}{'saved MB':>12}{'step / LoRA':>14}{'peak MB':>10}")
        for one, contender in contenders.items():
            top = peak(folder, one, *shape) if arguments.peak else None
            share = timings[one].median / timings[PEFT].median
            row = {
                "trained": contender.count,
                "saved": contender.saved(),
                "step over PEFT's LoRA": round(share, 3),
                "peak": top,
            }
            figures[one] = row
            shown = "" if top is None else f"{top / 1e6:.0f}"
            print(f"  {one:<20}{row['trained']:>12,}{row['saved'] / 1e6:>12.1f}{share:>14.2f}{shown:>10}")
        finish(f"tuners_{arguments.size}", figures, timings)


if __name__ == "__main__":
    main()
