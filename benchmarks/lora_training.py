"""LoRA training: our loop against a bare PEFT loop and TRL's, on the same rows, model and optimizer; one JSON line.

The bare loop is PEFT's own quick start: forward, loss, backward, clip, AdamW step, on batches that were encoded before.
TRL's is `SFTTrainer` on encoded rows, logging, saving and gradient checkpointing off (extra [peers]; left out where it
is not installed). litgpt cannot share an environment with transformers 5: `--litgpt PYTHON` names an interpreter that
has it, which runs `_litgpt_loop.py` on the same rows from the same weights. Ours is `tune` as it is, with its guards
and its order of rows. Set-up is left out by taking the difference of a long and a short run. Goal: at most 3 % on top
of the bare loop. The first step's losses must agree to 1e-4. The bound is 4 N T / F: forward and the backward through
the activations of T tokens, no gradient of N frozen parameters, at F FLOP/s.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import logging
import random
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

import pairtune
from _harness import Timing, finish, matrix_flops, ratio
from pairtune.data.collate import Collator
from pairtune.data.encode import Encoder
from pairtune.pair.tensorfile import write_safetensors
from pairtune.zoo import path as zoo_path

SIZES = {"small": (4, 256, 4), "gpt2": (12, 768, 12)}
BATCH, ROWS, LENGTH, RATE = 8, 512, 128, 2e-4


def prepare(folder: Path, size: str) -> None:
    """A random model with the zoo's tokenizer, and 512 texts of about 128 tokens."""
    layers, width, heads = SIZES[size]
    tokenizer = AutoTokenizer.from_pretrained(zoo_path("tiny-lm"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 8 * 8,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    words = [word for word in tokenizer.get_vocab() if word.startswith("Ġ") and word[1:].isalpha()]
    generator = random.Random(0)
    rows = [" ".join(w[1:] for w in generator.choices(words, k=LENGTH - 2)) for _ in range(ROWS)]
    (folder / "train.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in rows), encoding="utf-8")


class Bare:
    """A PEFT loop as its documentation has it."""

    def __init__(self, folder: Path):
        tokenizer = AutoTokenizer.from_pretrained(folder / "base")
        task = pairtune.Task.load(None, kind="lm", text="text", splits={"train": str(folder / "train.jsonl")})
        encoded = Encoder(task, tokenizer, "causal", LENGTH + 64).split(task.split("train"))
        order = np.random.default_rng([0, 0]).permutation(len(encoded))
        collate = Collator(tokenizer, "causal")
        self.batches = [
            collate(encoded.take(order[i : i + BATCH].tolist())) for i in range(0, len(order) - BATCH + 1, BATCH)
        ]
        self.rows = [{"input_ids": row["input_ids"]} for row in encoded.take(order.tolist())]
        self.folder, self.tokenizer = folder, tokenizer

    def run(self, steps: int) -> float:
        """The first step's loss."""
        torch.manual_seed(0)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(self.folder / "base"), self.lora())
        model.train()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
        first = float("nan")
        for step in range(steps):
            batch = self.batches[step % len(self.batches)]
            inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "position_ids", "labels")}
            loss = model(**inputs, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step == 0:
                first = loss.item()
        return first

    def trl(self, steps: int) -> float:
        """The first step's loss of TRL's trainer on the same rows in the same order."""
        from datasets import Dataset

        trl = importlib.import_module("trl")  # not installed everywhere
        losses: list[float] = []

        class Noted(trl.SFTTrainer):  # type: ignore[name-defined]
            def compute_loss(self, *args, **keywords):
                found = super().compute_loss(*args, **keywords)
                if not losses:
                    losses.append(float(found[0] if isinstance(found, tuple) else found))
                return found

        with tempfile.TemporaryDirectory() as out:
            quiet = {"logging_strategy": "no", "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
            plain = {"bf16": False, "use_cpu": True, "gradient_checkpointing": False, "weight_decay": 0.0}
            config = trl.SFTConfig(
                out,
                max_steps=steps,
                learning_rate=RATE,
                lr_scheduler_type="constant",
                per_device_train_batch_size=BATCH,
                train_sampling_strategy="sequential",
                **quiet,
                **plain,
            )
            torch.manual_seed(0)
            Noted(
                AutoModelForCausalLM.from_pretrained(self.folder / "base"),
                config,
                train_dataset=Dataset.from_list(self.rows),
                processing_class=self.tokenizer,
                peft_config=self.lora(),
            ).train()
        return losses[0]

    def litgpt(self, python: str, steps: int, warmup: int) -> tuple[float, float, float]:
        """The first step's loss, and wall and CPU seconds of the steps after the warm-up, in a process of its own."""
        if not (self.folder / "batches.safetensors").exists():
            named = {f"{k}.{i}": batch[k] for i, batch in enumerate(self.batches) for k in ("input_ids", "labels")}
            write_safetensors(self.folder / "batches.safetensors", named)
        script = str(Path(__file__).with_name("_litgpt_loop.py"))
        command = [python, script, str(self.folder), str(steps), str(warmup), str(torch.get_num_threads())]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        first, wall, cpu = json.loads(done.stdout.splitlines()[-1])
        return first, wall, cpu

    def lora(self) -> LoraConfig:
        """What all contenders train."""
        return LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def ours(folder: Path, steps: int) -> float:
    """The first step's loss of `tune`."""
    config = {
        "base": str(folder / "base"),
        "data": {"splits": {"train": str(folder / "train.jsonl"), "validation": None}, "kind": "lm", "text": "text"},
        "tuner": {"name": "lora", "r": 8},
        "training": {
            "lr": RATE,
            "batch_size": BATCH,
            "max_steps": steps,
            "max_length": LENGTH + 64,
            "warmup": 0.0,
            "schedule": "constant",
            "log_every": 1,
        },
    }
    with tempfile.TemporaryDirectory() as out:
        pairtune.tune(config | {"out": f"{out}/pair"})
        state = json.loads(next(Path(out).glob("pair.run/checkpoint-*/trainer_state.json")).read_text())
    return next(entry["loss"] for entry in state["log_history"] if "loss" in entry)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--litgpt", metavar="PYTHON", help="an interpreter that has litgpt")
    arguments = parser.parse_args()
    logging.getLogger("pairtune").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, arguments.size)
        bare = Bare(folder)
        contenders = {"bare PEFT loop": bare.run, "pairtune tune": lambda steps: ours(folder, steps)}
        if importlib.util.find_spec("trl"):
            contenders["TRL's SFTTrainer"] = bare.trl
        first = [run(1) for run in contenders.values()]
        gap = max(first) - min(first)
        assert gap < 1e-4, f"the first step's losses differ: {first}"
        if arguments.litgpt:
            first.append(bare.litgpt(arguments.litgpt, 1, 0)[0])
            gap = max(first) - min(first)
            assert gap < 1e-4, f"the first step's losses differ: {first}"
        timings = {label: Timing([], []) for label in contenders}
        if arguments.litgpt:
            timings["litgpt's LoRA loop"] = Timing([], [])
        short = 5
        for _ in range(arguments.repeats):
            for label, run in contenders.items():
                spent = []
                for steps in (short, short + arguments.steps):
                    wall, cpu = time.perf_counter(), time.process_time()
                    run(steps)
                    spent.append((time.perf_counter() - wall, time.process_time() - cpu))
                timings[label].wall.append(spent[1][0] - spent[0][0])
                timings[label].cpu.append(spent[1][1] - spent[0][1])
            if arguments.litgpt:
                _, wall, cpu = bare.litgpt(arguments.litgpt, arguments.steps, short)
                timings["litgpt's LoRA loop"].wall.append(wall)
                timings["litgpt's LoRA loop"].cpu.append(cpu)
        tokens = statistics.mean(int(batch["attention_mask"].sum()) for batch in bare.batches) * arguments.steps
        model = AutoModelForCausalLM.from_pretrained(folder / "base")
        bound = 4 * model.num_parameters() * tokens / matrix_flops()
        bare_timing = timings["bare PEFT loop"]
        figures = {
            "first step's losses differ by": gap,
            **{
                f"{label} over the bare loop (median, low, high)": [f"{x - 1:+.1%}" for x in ratio(t, bare_timing)]
                for label, t in timings.items()
                if t is not bare_timing
            },
            **{f"tokens a second, {label}": round(tokens / timing.median) for label, timing in timings.items()},
            "share of the bound, pairtune tune": round(bound / timings["pairtune tune"].median, 2),
        }
        finish(f"lora_training_{arguments.size}", figures, timings)


if __name__ == "__main__":
    main()
