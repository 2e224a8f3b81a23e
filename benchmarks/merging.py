"""Merging from disk to disk: ours, mergekit where it is given, and plain copying of the same bytes.

Models of random weights in bfloat16 are made by this script (fixed seed), in one file or in shards. Every contender
runs in a process of its own, in turn, and its peak of anonymous memory is watched from outside; imports count, and are
given apart. The bound is the copy: as many bytes read as the models have, as many written as the result has, synced.

    python benchmarks/merging.py --sizes 0.1 1 4 --mergekit PATH_OF_AN_INTERPRETER

Files are in the page cache where they fit ("warm"); say so when quoting. The goals: at least twice as fast as mergekit
on linear and TIES with no more memory, linear within 1.3 times the copy, a 4 GB merge under 1.5 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
import yaml

from pairtune.pair.files import write_json, write_safetensors
from pairtune.zoo import path as zoo_path

METHODS = {"linear": {}, "ties": {"density": 0.5}}
COPY = """
import os, sys
out, *models = sys.argv[1:]
block = bytearray(1 << 24)
for i, model in enumerate(models):
    for name in sorted(os.listdir(model)):
        if name.endswith(".safetensors"):
            target = os.open(os.path.join(out, name), os.O_WRONLY | os.O_CREAT, 0o666) if i == 0 else None
            with open(os.path.join(model, name), "rb", buffering=0) as file:
                while count := file.readinto(block):
                    if target is not None:
                        os.write(target, memoryview(block)[:count])
            if target is not None:
                os.fsync(target)
                os.close(target)
"""
OURS = """
import sys, json
from pairtune.merging.engine.run import merge
out, method, settings, base, *models = sys.argv[1:]
merge(models, out, method, json.loads(settings), base=base if method != "linear" else None, check=False)
"""


def make_model(folder: Path, size: float, seed: int, shards: int) -> Path:
    """A Llama of about `size` GB in bfloat16, random, with the tokenizer of the small zoo model."""
    folder.mkdir(parents=True)
    layers = max(2, round(16 * min(size, 1)))
    # 12 d^2 parameters a layer with an intermediate size of 8/3 d, and an embedding of 8,192 rows.
    width = max(64, int((size * 1e9 / 2 / layers / 12) ** 0.5) // 64 * 64)
    inner = width * 8 // 3 // 64 * 64
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64, "vocab_size": 8192, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": True, "dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    write_json(folder / "config.json", config)
    for file in zoo_path("tiny-lm").glob("*token*.json"):
        shutil.copy(file, folder)
    shapes = {"model.embed_tokens.weight": (8192, width), "model.norm.weight": (width,)}
    for i in range(layers):
        name = f"model.layers.{i}"
        shapes |= {f"{name}.self_attn.{part}_proj.weight": (width, width) for part in "qkvo"}
        shapes |= {f"{name}.mlp.{part}_proj.weight": (inner, width) for part in ("gate", "up")}
        shapes |= {f"{name}.mlp.down_proj.weight": (width, inner)}
        shapes |= {f"{name}.{part}_layernorm.weight": (width,) for part in ("input", "post_attention")}
    groups = [dict(list(shapes.items())[i::shards]) for i in range(shards)]
    files = (
        ["model.safetensors"]
        if shards == 1
        else [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    )
    common, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    for file, group in zip(files, groups, strict=True):
        tensors = {}
        for name, shape in group.items():
            value = torch.empty(shape).normal_(0, 0.02, generator=common)
            tensors[name] = (value + torch.empty(shape).normal_(0, 0.002, generator=own)).bfloat16()
        write_safetensors(folder / file, tensors, {"format": "pt"})
    if shards > 1:
        places = {name: file for file, group in zip(files, groups, strict=True) for name in group}
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})
    return folder


def run(command: list[str]) -> dict[str, float]:
    """Seconds (wall, CPU) and the peak of anonymous memory in bytes of a process. Raises where it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        peak = [0]
        watch = threading.Thread(target=_watch, args=(process, peak))
        watch.start()
        code = process.wait()
        watch.join()
        errors.seek(0)
        if code:
            raise SystemExit(f"{command[:3]} failed: {errors.read().decode()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": time.perf_counter() - start, "cpu": cpu, "memory": peak[0]}


def _watch(process: subprocess.Popen, peak: list[int]) -> None:
    while process.poll() is None:
        try:
            text = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            return
        found = [int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon:")]
        peak[0] = max(peak[0], *(kilobytes * 1024 for kilobytes in found), 0)
        time.sleep(0.01)


def contenders(method: str, base: Path, models: list[Path], work: Path, peer: str | None) -> dict[str, list[str]]:
    """The command line of each contender; all write into `work / "out"`."""
    out, names = str(work / "out"), [str(model) for model in models]
    found = {
        "copy": [sys.executable, "-c", COPY, out, *names, *([] if method == "linear" else [str(base)])],
        "pairtune": [sys.executable, "-c", OURS, out, method, json.dumps(METHODS[method]), str(base), *names],
    }
    if peer:
        parameters = {"weight": 1.0, **METHODS[method]}
        config = {
            "merge_method": method,
            "models": [{"model": name, "parameters": parameters} for name in names],
            "dtype": "bfloat16",
            **({} if method == "linear" else {"base_model": str(base)}),
        }
        (work / "config.yml").write_text(yaml.safe_dump(config))
        script = [peer, "-m", "mergekit.scripts.run_yaml", str(work / "config.yml"), out, "--lazy-unpickle"]
        found["mergekit"] = [*script, "--async-write", "--write-threads", "2"]
    return found


def main() -> None:
    """Measure every size, sharded and not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.1], help="GB of one model")
    parser.add_argument("--models", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mergekit", default=os.environ.get("PAIRTUNE_MERGEKIT"), help="an interpreter that has it")
    parser.add_argument("--folder", type=Path, help="where the models are made; by default the system's temporary one")
    arguments = parser.parse_args()
    results = []
    for size in arguments.sizes:
        for shards in (1, 4):
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                work = Path(folder)
                made = [make_model(work / f"m{i}", size, i, shards) for i in range(arguments.models + 1)]
                for method in METHODS:
                    found = contenders(method, made[0], made[1:], work, arguments.mergekit)
                    times: dict[str, list[dict[str, float]]] = {name: [] for name in found}
                    for _ in range(arguments.repeats):
                        for name, command in found.items():
                            (work / "out").mkdir()
                            times[name].append(run(command))
                            shutil.rmtree(work / "out")
                    results.append({"size": size, "shards": shards, "method": method, "runs": times})
                    show(results[-1])
    imports = {"pairtune": run([sys.executable, "-c", "import pairtune.merging.engine.run"])}
    if arguments.mergekit:
        imports["mergekit"] = run([arguments.mergekit, "-c", "import mergekit.scripts.run_yaml"])
    print(json.dumps({"benchmark": "merging", "results": results, "imports": imports, "torch": torch.__version__}))


def show(result: dict) -> None:
    """One line a contender: medians, and how often the copy's time it takes."""
    print(f"{result['size']:g} GB in {result['shards']} file(s), {result['method']}")
    medians = {
        name: {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        for name, runs in result["runs"].items()
    }
    for name, one in medians.items():
        times = one["wall"] / medians["copy"]["wall"]
        print(
            f"  {name:<10} {one['wall']:8.2f} s wall  {one['cpu']:8.2f} s CPU  {one['memory'] / 1e6:8.0f} MB anonymous"
            f"  {times:5.2f} x the copy"
        )


if __name__ == "__main__":
    main()
