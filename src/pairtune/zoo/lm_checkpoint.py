"""Save and load the state of a pretraining run: safetensors and JSON, in a folder that is renamed when complete.

A crash at any moment leaves the earlier folder; nothing is pickled, so a checkpoint can be read by anything.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def latest(out: Path) -> Path | None:
    """The newest complete checkpoint of a run."""
    found = [p for p in out.glob("step-*") if re.fullmatch(r"step-\d+", p.name)]
    return max(found, key=lambda p: int(p.name[5:]), default=None)


def save(
    out: Path, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer], state: dict, keep: bool = False
) -> Path:
    """Write `step-N` and remove the older checkpoints that were not asked to be kept."""
    names = {id(p): n for n, p in model.named_parameters()}
    moments = {}
    for number, optimizer in enumerate(optimizers):
        for parameter, entries in optimizer.state.items():
            for key, value in entries.items():
                value = value if isinstance(value, torch.Tensor) else torch.tensor(value)
                moments[f"{number}|{names[id(parameter)]}|{key}"] = value.detach().cpu().contiguous()
    done = out / f"step-{state['step']:08d}"
    part = out / f"{done.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file({n: p.detach().cpu().contiguous() for n, p in model.named_parameters()}, part / "weights.safetensors")
    save_file(moments, part / "moments.safetensors")
    (part / "state.json").write_text(json.dumps({**state, "keep": keep}, indent=1) + "\n", encoding="utf-8")
    if done.exists():
        shutil.rmtree(done)
    part.rename(done)
    for old in out.glob("step-*"):
        if old != done and (old.suffix == ".part" or not json.loads((old / "state.json").read_text())["keep"]):
            shutil.rmtree(old)
    return done


def load_weights(folder: Path, model: torch.nn.Module) -> None:
    """Copy the saved weights into the model; every parameter must be there."""
    weights = load_file(folder / "weights.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights.pop(name))
    if weights:
        raise ValueError(f"{folder}: weights of another model: {sorted(weights)[:3]}")


def load(folder: Path, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict:
    """Restore weights and moments, and return the run's state."""
    load_weights(folder, model)
    parameters = dict(model.named_parameters())
    for key, value in load_file(folder / "moments.safetensors").items():
        number, name, entry = key.split("|")
        parameter = parameters[name]
        # Adam's step counter lives on the CPU, the moments beside their parameter
        placed = value if entry == "step" else value.to(parameter.device)
        optimizers[int(number)].state[parameter][entry] = placed
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))
