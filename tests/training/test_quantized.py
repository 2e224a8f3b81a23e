"""LoRA on a 4-bit base: validation must not cut the gradients off."""

import json

import pytest
import torch

from pairtune.training.run import tune

pytest.importorskip("bitsandbytes")


@pytest.fixture
def wide_llama(tiny_llama, tmp_path):
    """A base wide enough for the 4-bit layout that some CPUs get (multiples of 32)."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(tiny_llama)
    config.hidden_size, config.intermediate_size, config.num_key_value_heads, config.head_dim = 64, 64, 2, 32
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "wide")
    return tmp_path / "wide"


def test_a_4bit_base_trains_alike_with_and_without_validation(wide_llama, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"the dog sat on the mat {i}"}) for i in range(24)))
    config = {
        "base": str(wide_llama),
        "data": {"source": str(path), "kind": "lm", "text": "text"},
        "device": "cpu",
        "quantize": "4bit",
        "tuner": {"name": "lora", "r": 4},
    }
    training = {"max_steps": 5, "batch_size": 4, "lr": 1e-2}
    checked = tune({**config, "training": {**training, "eval_every": 1, "metric": "loss", "patience": 99}})
    assert checked.top.record["training"]["chosen_step"] == 5
    plain = tune({**config, "training": training})
    mine, theirs = checked.top.installed.state(), plain.top.installed.state()
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())
