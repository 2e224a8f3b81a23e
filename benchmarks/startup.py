"""Start-up: how long an import and a `--help` take, ours beside peft and trl; one JSON line at the end.

Every figure is the median of fresh processes, taken in turn so that a busy machine disturbs all alike. The bounds are
the bare interpreter and torch alone. Wall and CPU time are in seconds, memory in MB. What is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

COMMAND = Path(sys.executable).with_name("pairtune")
CODE = {
    "python (bound)": "pass",
    "import pairtune": "import pairtune",
    "import pairtune.Pair": "import pairtune; pairtune.Pair",
    "import torch (bound)": "import torch",
    "import transformers' Trainer": "from transformers import Trainer",
    "import peft": "import peft",
    "import peft.LoraConfig": "from peft import LoraConfig, get_peft_model",
    "import trl": "import trl",
    "import trl.SFTTrainer": "from trl import SFTTrainer",
}
COMMANDS = {
    "pairtune --help": [str(COMMAND), "--help"],
    "pairtune methods": [str(COMMAND), "methods"],
    "pairtune, misspelt verb": [str(COMMAND), "tnue"],
    "pairtune, misspelt tuner": [str(COMMAND), "tune", "--tuner", "lvei", "--base", "b", "--data", "d"],
    "trl --help": [str(COMMAND.with_name("trl")), "--help"],
}


def measure(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak memory in MB of one process."""
    start = time.perf_counter()
    child = os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)],
    )
    _, status, usage = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status) not in {0, 2}:  # 2: a misspelt name is answered so
        raise RuntimeError(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def modules(code: str) -> int:
    """How many modules are loaded after the code ran."""
    read, write = os.pipe()
    text = f"{code}\nimport sys, os; os.write({write}, str(len(sys.modules)).encode())"
    if (child := os.fork()) == 0:
        os.set_inheritable(write, True)
        os.execv(sys.executable, [sys.executable, "-c", text])
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as answer:
        return int(answer.read() or 0)


def main() -> None:
    """Measure, print a table, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="processes for each figure")
    repeats = parser.parse_args().repeats
    cases = {
        name: [sys.executable, "-c", code]
        for name, code in CODE.items()
        if name.split()[0] != "import" or importlib.util.find_spec(name.split()[1].partition(".")[0])
    }
    cases |= {name: command for name, command in COMMANDS.items() if Path(command[0]).exists()}
    for name, command in list(cases.items()):
        try:
            measure(command)  # the first run fills the page cache and compiles
        except RuntimeError as error:
            print(f"left out: {error}")
            del cases[name]
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, command in cases.items():
            taken[name].append(measure(command))
    figures = {}
    print(f"{'':30}{'wall s':>9}{'spread':>9}{'CPU s':>9}{'MB':>7}{'modules':>9}")
    for name, runs in taken.items():
        wall, cpu, memory = (statistics.median(column) for column in zip(*runs, strict=True))
        spread = max(run[0] for run in runs) - min(run[0] for run in runs)
        loaded = modules(CODE[name]) if name in CODE else None
        figures[name] = {"wall": wall, "spread": spread, "cpu": cpu, "mb": memory, "modules": loaded}
        print(f"{name:30}{wall:9.3f}{spread:9.3f}{cpu:9.3f}{memory:7.0f}{loaded or '':>9}")
    versions = {}
    for name in ("pairtune", "torch", "transformers", "peft", "trl"):
        if importlib.util.find_spec(name):
            versions[name] = importlib.metadata.version(name)  # the installed distribution's
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "repeats": repeats}
    print(json.dumps({"benchmark": "startup", "figures": figures, "versions": versions, "machine": machine}))


if __name__ == "__main__":
    main()
