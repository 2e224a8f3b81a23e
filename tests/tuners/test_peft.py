"""PEFT's own folders in and out, its strictness made strict, and the base left whole by every method it has."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import PeftType
from safetensors.torch import load_file, save_file

from pairtune import registry
from pairtune.errors import ConfigError, DeltaMismatch, FormatError, InputError
from pairtune.pair.base import Base
from pairtune.tuners.lora import LoRA
from pairtune.tuners.peft import Peft
from pairtune.tuners.peft_config import REFUSED

IDS = torch.tensor([[1, 5, 9, 12, 7, 4], [1, 8, 30, 6, 11, 2]])
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
# What the methods need where their defaults suit larger models.
SMALL = {
    "adalora": {"total_step": 10}, "prompt_tuning": {"num_virtual_tokens": 3}, "p_tuning": {"num_virtual_tokens": 3},
    "prefix_tuning": {"num_virtual_tokens": 3}, "adaption_prompt": {"adapter_len": 3, "adapter_layers": 2},
    "fourierft": {"n_frequency": 8}, "vblora": {"vector_length": 4, "num_vectors": 8}, "miss": {"r": 2},
    "road": {"group_size": 4}, "trainable_tokens": {"token_indices": [5, 6]}, "shira": {"r": 2},
    "c3a": {"block_size": 4}, "waveft": {"n_frequency": 8}, "cartridge": {"num_virtual_tokens": 3}, "psoft": {"r": 4},
}  # fmt: skip


def load(folder):
    return Base.load(folder, task="classification", labels=["a", "b", "c"])


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(**BATCH).logits


def train(installed, steps=1, lr=0.5):
    optimizer = torch.optim.SGD([p for _, p in installed.trainable()], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        installed.model(**BATCH).logits.float().square().mean().backward()
        optimizer.step()


def install(tuner, folder, calibration=None):
    base = load(folder)
    torch.manual_seed(0)
    installed = tuner.install(base, base.model, calibration)
    installed.model.eval()
    return base, installed


@pytest.mark.parametrize("kind", sorted({item.value for item in PeftType} - REFUSED.keys()))
def test_every_method_leaves_the_base_whole_and_comes_back(kind, tiny_llama, tmp_path):
    kind = kind.lower()
    tuner = Peft(type=kind, **SMALL.get(kind, {}))
    base, installed = install(tuner, tiny_llama)
    before, alone = base.checksum(), logits(load(tiny_llama).model)
    train(installed)
    tuned = logits(installed.model)
    assert not torch.equal(tuned, alone)
    installed.off()
    assert torch.equal(logits(base.model), alone)
    assert base.checksum() == before == load(tiny_llama).checksum()
    installed.on()
    assert torch.equal(logits(installed.model), tuned)
    installed.write(tmp_path)
    again = load(tiny_llama)
    assert torch.allclose(logits(tuner.restore(again, again.model, tmp_path).model), tuned, atol=1e-5)


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_bert", "tiny_t5"])
def test_peft_loads_ours_with_equal_outputs(model, request, tmp_path):
    folder = request.getfixturevalue(model)
    base, installed = install(LoRA(r=4, alpha=8), folder)
    more = {"decoder_input_ids": IDS} if base.family == "seq2seq" else {}
    for _, parameter in installed.trainable():
        torch.nn.init.normal_(parameter, std=0.1)
    installed.write(tmp_path)
    by_peft = PeftModel.from_pretrained(load(folder).model, tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(by_peft(**BATCH, **more).logits, installed.model(**BATCH, **more).logits)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == base.source


def made_by_peft(folder, target, task, **settings):
    """A PEFT folder as a user of PEFT alone has it."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type=task, **settings)
    torch.manual_seed(1)
    model = get_peft_model(load(folder).model, config).eval()
    for _, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(target)
    return logits(model)


@pytest.mark.parametrize(("model", "task"), [("tiny_llama", "CAUSAL_LM"), ("tiny_bert", "SEQ_CLS")])
def test_we_load_what_peft_made_with_equal_outputs(model, task, request, tmp_path):
    folder = request.getfixturevalue(model)
    expected = made_by_peft(folder, tmp_path / "adapter", task)
    base = load(folder)
    installed = Peft(type="lora").restore(base, base.model, tmp_path / "adapter")
    assert torch.equal(logits(installed.model), expected)
    installed.write(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(load(folder).model, tmp_path)), expected)


def test_a_folder_trained_from_factors_of_the_base_loads_as_in_peft(tiny_llama, tmp_path):
    expected = made_by_peft(tiny_llama, tmp_path, "CAUSAL_LM", init_lora_weights="pissa")
    base = load(tiny_llama)
    before = base.checksum()
    installed = Peft(type="lora").restore(base, base.model, tmp_path)
    assert torch.allclose(logits(installed.model), expected, atol=1e-4)
    installed.off()
    assert base.checksum() == before and torch.equal(logits(base.model), logits(load(tiny_llama).model))


@pytest.mark.parametrize("change", ["missing", "extra", "renamed", "shape", "nan"])
def test_a_damaged_adapter_is_refused_and_leaves_the_base_as_it_was(change, tiny_bert, tmp_path):
    made_by_peft(tiny_bert, tmp_path, "SEQ_CLS")
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_A" in name)
    value = tensors[name]
    if change in ("missing", "renamed"):
        del tensors[name]
    if change in ("extra", "renamed"):
        tensors[name.replace("layer.0", "layer.9")] = value.clone()
    if change == "shape":
        tensors[name] = torch.zeros(3, 3)
    if change == "nan":
        tensors[name] = value * float("nan")
    save_file(tensors, path, {"format": "pt"})
    base = load(tiny_bert)
    alone = logits(base.model)
    words = {"missing": "1 missing .*layer.0", "extra": "1 unexpected .*layer.9", "renamed": "missing .* unexpected"}
    with pytest.raises(DeltaMismatch, match=words.get(change, change.replace("nan", "NaN"))):
        Peft(type="lora").restore(base, base.model, tmp_path)
    assert torch.equal(logits(base.model), alone)
    assert not any("lora" in key for key, _ in base.model.named_parameters())
    if change == "missing":
        stored = Peft(type="lora").restore(base, base.model, tmp_path, allow_partial=True).stored()
        assert name in stored and all(torch.equal(stored[other], tensor) for other, tensor in tensors.items())


def test_a_configuration_from_elsewhere_cannot_run_code_or_pass_unread(tiny_llama, tmp_path):
    made_by_peft(tiny_llama, tmp_path / "good", "CAUSAL_LM")

    def changed(**entries):
        target = tmp_path / "bad"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(tmp_path / "good", target)
        path = target / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))
        base = load(tiny_llama)
        return Peft(type="lora").restore(base, base.model, target)

    changed(a_setting_of_tomorrow=None)
    with pytest.raises(FormatError, match="does not know a_setting_of_tomorrow"):
        changed(a_setting_of_tomorrow=True)
    with pytest.raises(FormatError, match="would import the module 'os'"):
        changed(megatron_config={"a": 1}, megatron_core="os")
    with pytest.raises(FormatError, match="did you mean lora"):
        changed(peft_type="LORRA")
    with pytest.raises(FormatError, match="OSF cannot be used"):
        changed(peft_type="OSF")
    with pytest.raises(DeltaMismatch, match="bias"):
        changed(bias="all")
    with pytest.raises(DeltaMismatch, match="path_initial_model_for_weight_conversion"):
        changed(init_lora_weights="corda")


def test_settings_are_checked_against_pefts_own(tiny_llama):
    with pytest.raises(ConfigError) as caught:
        registry.build("tuners", "peft:lora", {"lora_alpah": 3, "r": "eight", "bias": "all", "task_type": "CAUSAL_LM"})
    text = str(caught.value)
    for words in (
        "did you mean lora_alpha",
        "r: expected int (found 'eight')",
        "bias",
        "task_type: is set by pairtune",
    ):
        assert words in text
    with pytest.raises(ConfigError, match="needs a preparation"):
        registry.build("tuners", "peft:lora", {"init_lora_weights": "eva"})
    with pytest.raises(ConfigError, match="rewrites the base"):
        Peft(type="osf")
    base = load(tiny_llama)
    with pytest.raises(InputError, match="peft:lora cannot be installed .* not found"):
        Peft(type="lora", target_modules=["nothing"]).install(base, base.model)
