"""A LoRA merged into its base from disk to disk: ours, PEFT's `merge_and_unload`, and a plain copy of the base.

A Llama of random weights and PEFT LoRAs of three ranks on all its linear layers are made by this script. PEFT loads the
model, merges and saves it; ours streams tensor by tensor and never builds the model. Every contender runs in a process
of its own, in turn, imports counted and given apart. Afterwards both results are compared with each other and with base
and adapter at run time, on 8 prompts. The bound is the copy: the base's bytes read and written once, synced.

    python benchmarks/merging_lora.py --size 0.5
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from merging import COPY, make_model, run, show

OURS = """
import sys
from pairtune.merging.engine.run import merge
out, base, adapter, dtype = sys.argv[1:]
merge([adapter], out, "linear", {}, base=base, dtype=dtype, check=False)
"""
PEFT = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
out, base, adapter, dtype = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
"""
ADAPTER = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
out, base, rank = sys.argv[1:]
torch.manual_seed(int(rank))
model = get_peft_model(
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
    LoraConfig(r=int(rank), lora_alpha=2 * int(rank), target_modules="all-linear", task_type="CAUSAL_LM"),
)
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(0, 0.002)
model.save_pretrained(out)
"""


def python(code: str, *arguments: object) -> list[str]:
    """The command line of a snippet."""
    return [sys.executable, "-c", code, *map(str, arguments)]


@torch.inference_mode()
def logits(folder: Path, adapter: Path | None, dtype: str) -> torch.Tensor:
    """Of 8 prompts of 32 random ids."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32 if adapter else getattr(torch, dtype))
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    ids = torch.randint(0, 8192, (8, 32), generator=torch.Generator().manual_seed(0))
    return model.float()(input_ids=ids).logits


def main() -> None:
    """Measure every rank and type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=0.5, help="GB of the base in bfloat16")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16, 64])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the models are made; by default the system's temporary one")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        work = Path(folder)
        base = make_model(work / "base", arguments.size, 0, 1)
        for rank in arguments.ranks:
            adapter = work / f"r{rank}"
            subprocess.run(python(ADAPTER, adapter, base, rank), check=True, capture_output=True)
            for dtype in arguments.dtypes:
                found = {
                    "copy": python(COPY, work / "out", base),
                    "pairtune": python(OURS, work / "out", base, adapter, dtype),
                    "peft": python(PEFT, work / "out", base, adapter, dtype),
                }
                runs: dict[str, list[dict[str, float]]] = {name: [] for name in found}
                made = {}
                for repeat in range(arguments.repeats):
                    for name, command in found.items():
                        (work / "out").mkdir()
                        runs[name].append(run(command))
                        if repeat == 0 and name != "copy":
                            made[name] = logits(work / "out", None, dtype)
                        shutil.rmtree(work / "out")
                wanted = logits(base, adapter, dtype)
                off = {name: float((value - wanted).abs().max()) for name, value in made.items()}
                apart = float((made["pairtune"] - made["peft"]).abs().max())
                about = {"size": arguments.size, "shards": 1, "method": f"LoRA r {rank}, {dtype}", "runs": runs}
                results.append({**about, "largest logit": float(wanted.abs().max()), "logits off": off, "apart": apart})
                show(results[-1])
                print(f"  logits off base + adapter by at most {off}, ours from PEFT's by {apart:.2g}")
    imports = {
        "pairtune": run(python("import pairtune.merging.engine.run")),
        "peft": run(python("import peft, transformers; transformers.AutoModelForCausalLM")),
    }
    print(json.dumps({"benchmark": "merging_lora", "results": results, "imports": imports, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
