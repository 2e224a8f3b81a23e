"""litgpt's LoRA training loop on rows and weights of ours; run by an interpreter that has litgpt, not by ours.

`python _litgpt_loop.py FOLDER STEPS WARMUP` reads `base/` (a Llama checkpoint) and `batches.safetensors` from the
folder, converts the weights as litgpt does, and takes the steps as litgpt's `finetune/lora.py` does: its model with
merged QKV, chunked head and loss, AdamW. The last line is JSON: the first step's loss, wall and CPU seconds of the
steps after the warm-up.
"""

import json
import sys
import time
from pathlib import Path

import torch
from litgpt.lora import GPT, Config, mark_only_lora_as_trainable  # type: ignore[import-not-found]
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama  # type: ignore[import-not-found]
from litgpt.utils import chunked_cross_entropy  # type: ignore[import-not-found]
from safetensors.torch import load_file


def model_of(folder: Path, rate: float) -> tuple[GPT, torch.optim.Optimizer]:
    """The converted model with LoRA of rank 8 on all linear layers but the head, and its optimizer."""
    found = json.loads((folder / "config.json").read_text())
    lora = {f"lora_{part}": True for part in ("query", "key", "value", "projection", "mlp")}
    config = Config(
        name="llama", block_size=512, n_layer=found["num_hidden_layers"], n_head=found["num_attention_heads"],
        n_embd=found["hidden_size"], vocab_size=found["vocab_size"], padded_vocab_size=found["vocab_size"],
        intermediate_size=found["intermediate_size"], norm_class_name="RMSNorm", norm_eps=found["rms_norm_eps"],
        mlp_class_name="LLaMAMLP", rotary_percentage=1.0, parallel_residual=False, bias=False,
        lora_r=8, lora_alpha=32, lora_dropout=0.0, **lora,
    )  # fmt: skip
    weights: dict[str, torch.Tensor] = {}
    copy_weights_hf_llama(config, {}, weights, load_file(folder / "model.safetensors"))
    torch.manual_seed(0)
    model = GPT(config)
    model.load_state_dict(weights, strict=False)
    mark_only_lora_as_trainable(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model.train(), torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)


def main() -> None:
    """Take the steps."""
    folder, steps, warmup = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(int(sys.argv[4]))
    batches = load_file(folder / "batches.safetensors")
    count = len(batches) // 2
    model, optimizer = model_of(folder / "base", 2e-4)
    model.max_seq_length = max(batches[f"input_ids.{i}"].shape[1] for i in range(count))
    first, wall, cpu = float("nan"), 0.0, 0.0
    for step in range(warmup + steps):
        if step == warmup:
            wall, cpu = time.perf_counter(), time.process_time()
        logits = model(batches[f"input_ids.{step % count}"], lm_head_chunk_size=128)
        logits[-1] = logits[-1][..., :-1, :]
        loss = chunked_cross_entropy(logits, batches[f"labels.{step % count}"][..., 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 0:
            first = loss.item()
    print(json.dumps([first, time.perf_counter() - wall, time.process_time() - cpu]))


if __name__ == "__main__":
    main()
