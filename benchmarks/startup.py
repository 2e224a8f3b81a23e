"""Start-up: how long an import and a `--help` take, ours beside its peers; one JSON line at the end.

Every figure is of fresh processes, taken in turn so that a busy machine disturbs all alike. The bounds are the bare
interpreter and torch alone; the goal for ours is torch + 0.3 s, and under 0.5 s for an answer of the command line. What
is not installed is left out, and so is, by name, what fails. Peers that cannot share an environment with ours are
named with an interpreter that has them, and the module that does their work, since some packages import it only when
it is used: `--peer mergekit.merge=/other/bin/python`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

COMMAND = Path(sys.executable).with_name("pairtune")
TRL = Path(sys.executable).with_name("trl")
CODE = {
    "python (bound)": "pass",
    "import torch (bound)": "import torch",
    "import pairtune": "import pairtune",
    "pairtune.Pair": "import pairtune; pairtune.Pair",
    "transformers.Trainer": "from transformers import Trainer",
    "peft.get_peft_model": "from peft import LoraConfig, get_peft_model",
    "trl.SFTTrainer": "from trl import SFTTrainer",
    "lm_eval.simple_evaluate": "from lm_eval import simple_evaluate",
    "pytorch_ood": "import pytorch_ood",
}
OPTIONAL = {"peft", "trl", "lm_eval", "pytorch_ood"}
COMMANDS = {
    "pairtune --help": [str(COMMAND), "--help"],
    "pairtune methods": [str(COMMAND), "methods"],
    "pairtune, misspelt verb": [str(COMMAND), "tnue"],
    "pairtune, misspelt tuner": [str(COMMAND), "tune", "--tuner", "lvei", "--base", "b", "--data", "d"],
    "trl --help": [str(TRL), "--help"],
}
FACTS = """
import sys
size = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS"))
print("FACTS", len(sys.modules), int(size) // 1024)
"""
PULLED = r"""
import re, sys
from importlib.metadata import PackageNotFoundError, distribution
found, todo = {}, [sys.argv[1]]
while todo:
    name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
    try:
        there = name not in found and distribution(name)
    except PackageNotFoundError:
        continue
    if there:
        found[name] = sum(file.size or 0 for file in there.files or ())
        todo += [re.match(r"[\w.-]+", line)[0] for line in there.requires or () if "extra ==" not in line]
print("PULLED", len(found), sum(found.values()) // 10**6)
"""


def measure(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one process. Raises RuntimeError where it fails; 2 is the answer to a misspelt name."""
    start = time.perf_counter()
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    child = os.posix_spawn(command[0], command, os.environ, file_actions=quiet)
    _, status, usage = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status) not in {0, 2}:
        raise RuntimeError(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime


def facts(command: list[str]) -> tuple[int, int]:
    """How many modules are loaded, and the resident memory in MB, after the code ran."""
    done = subprocess.run([*command[:2], command[2] + FACTS], capture_output=True, text=True, check=True)
    modules, size = done.stdout.rpartition("FACTS ")[2].split()
    return int(modules), int(size)


def pulled(python: str, package: str) -> tuple[int, int]:
    """How many distributions a package pulls in, itself included, extras left out, and their files' size in MB."""
    done = subprocess.run([python, "-c", PULLED, package], capture_output=True, text=True, check=True)
    count, size = done.stdout.rpartition("PULLED ")[2].split()
    return int(count), int(size)


def main() -> None:
    """Measure, print, end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="processes for each figure")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="of another environment")
    arguments = parser.parse_args()
    repeats, peers = arguments.repeats, dict(peer.split("=", 1) for peer in arguments.peer)
    cases = {name: [sys.executable, "-c", code] for name, code in CODE.items()}
    cases |= {name: command for name, command in COMMANDS.items() if Path(command[0]).exists()}
    cases |= {name: [python, "-c", f"import {name}"] for name, python in peers.items()}
    for name in list(cases):
        top = name.partition(".")[0]
        if top in OPTIONAL and importlib.util.find_spec(top) is None:
            del cases[name]
            continue
        try:
            measure(cases[name])  # the first run compiles and fills the page cache
        except RuntimeError as error:
            print(f"left out: {error}")
            del cases[name]
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, command in cases.items():
            taken[name].append(measure(command))
    loaded = {name: facts(cases[name]) for name in cases if name in CODE or name in peers}
    packages = {name.partition(".")[0] for name in loaded if " " not in name} | {"pairtune"}
    pythons = {name.partition(".")[0]: python for name, python in peers.items()}
    sizes = {name: pulled(pythons.get(name, sys.executable), name) for name in sorted(packages)}

    from _harness import Timing, finish  # imports torch: after the processes that are measured were started

    timings = {name: Timing([wall for wall, _ in runs], [cpu for _, cpu in runs]) for name, runs in taken.items()}
    figures = {f"modules, MB after {name}": numbers for name, numbers in loaded.items()}
    figures |= {f"distributions, MB of {name}": numbers for name, numbers in sizes.items()}
    finish("startup", figures, timings)


if __name__ == "__main__":
    main()
