"""What a merge can be written as: a delta of pairtune's own, and a LoRA that PEFT loads; and adapters read by files."""

from __future__ import annotations

import json

import pytest
import torch
from tests.merging.models import moved

from pairtune.errors import DeltaMismatch, InputError
from pairtune.merging.engine.run import merge
from pairtune.merging.inputs.adapter import read_adapter
from pairtune.pair.checkpoint import Checkpoint
from pairtune.pair.complete import verify
from pairtune.pair.delta_io import load_delta
from pairtune.pair.files import open_safetensors, write_safetensors
from pairtune.pair.pair import Pair

TARGETS = ["q_proj", "up_proj"]


def adapter(base, folder, seed, r=3, **settings):
    """A LoRA folder that PEFT itself writes, with random factors."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    wrapped = get_peft_model(model, LoraConfig(**{"r": r, "lora_alpha": 5, "target_modules": TARGETS} | settings))
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    wrapped.save_pretrained(folder)
    return folder, wrapped


def read(folder, base):
    """The adapter's delta by its files."""
    delta = read_adapter(folder, base)
    assert delta is not None
    return delta


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 9}},
        {"modules_to_save": ["norm"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
    ],
    ids=["plain", "rslora", "patterns", "saved modules", "embedding"],
)
def test_an_adapter_read_from_its_files_is_what_peft_merges(tiny_llama, tmp_path, settings):
    folder, wrapped = adapter(tiny_llama, tmp_path / "lora", 1, **settings)
    base = Checkpoint(tiny_llama)
    delta = read(folder, base)
    theirs = wrapped.merge_and_unload().state_dict()
    for name in base:
        assert torch.allclose(delta.apply(name, base[name]), theirs[name], atol=1e-6), name


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"bias": "all"}])
def test_an_adapter_that_is_more_than_factors_is_left_to_its_tuner(tiny_llama, tmp_path, settings):
    folder, _ = adapter(tiny_llama, tmp_path / "lora", 1, **settings)
    assert read_adapter(folder, Checkpoint(tiny_llama)) is None


def test_dora_is_merged_as_peft_does(tiny_llama, tmp_path):
    folder, wrapped = adapter(tiny_llama, tmp_path / "dora", 1, use_dora=True)
    merge([folder], tmp_path / "out", "task-arithmetic", base=tiny_llama)
    theirs = wrapped.merge_and_unload().state_dict()
    found = Checkpoint(tmp_path / "out")
    assert all(torch.allclose(found[name], theirs[name], atol=1e-5) for name in found)


def test_a_damaged_adapter_is_refused(tiny_llama, tmp_path):
    folder, _ = adapter(tiny_llama, tmp_path / "lora", 1)
    stored = open_safetensors(folder / "adapter_model.safetensors")
    tensors = {name: stored.tensor(name).clone() for name in stored}
    name = next(name for name in tensors if "lora_A" in name)
    write_safetensors(folder / "adapter_model.safetensors", {**tensors, name: tensors[name] * float("nan")})
    with pytest.raises(DeltaMismatch, match="NaN"):
        merge([folder], tmp_path / "out", "task-arithmetic", base=tiny_llama)
    write_safetensors(folder / "adapter_model.safetensors", {k: v for k, v in tensors.items() if k != name})
    with pytest.raises(DeltaMismatch, match="lora_A of .* is missing"):
        merge([folder], tmp_path / "out", "task-arithmetic", base=tiny_llama)
    write_safetensors(folder / "adapter_model.safetensors", {**tensors, name: tensors[name][:, :5].clone()})
    with pytest.raises(DeltaMismatch, match=r"make \[\d+, 5\], the base has \[\d+, 16\]"):
        merge([folder], tmp_path / "out", "task-arithmetic", base=tiny_llama)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def adapters(tiny_llama, tmp_path):
    return [adapter(tiny_llama, tmp_path / f"lora{r}", r, r=r)[0] for r in (2, 3)]


def expected(tiny_llama, adapters, weights):
    base = Checkpoint(tiny_llama)
    deltas = [read(folder, base) for folder in adapters]
    changes = {name for delta in deltas for name in delta}
    sums = {n: sum(w * d.difference(n).double() for w, d in zip(weights, deltas, strict=True)) for n in changes}
    return {name: base[name].double() + sums.get(name, 0) for name in base}


def test_adapters_put_side_by_side_are_exact_for_peft(tiny_llama, adapters, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    given = [0.6, -0.3]
    done = merge(adapters, tmp_path / "out", "task-arithmetic", weights=given, base=tiny_llama, to="peft")
    verify(tmp_path / "out")
    assert done.card["check"]["largest_difference"] < 1e-4
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 5
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), tmp_path / "out")
    found = model.merge_and_unload().state_dict()
    for name, tensor in expected(tiny_llama, adapters, given).items():
        assert torch.allclose(found[name].double(), tensor, atol=1e-6), name
    # It is an input like any other, also on the base that it names.
    merge([tmp_path / "out"], tmp_path / "again", "task-arithmetic", base=tiny_llama)
    again = Checkpoint(tmp_path / "again")
    assert all(torch.allclose(again[name], found[name], atol=1e-6) for name in again)


def test_a_rank_cuts_and_the_error_is_told_by_layer(tiny_llama, adapters, tmp_path):
    done = merge(adapters, tmp_path / "out", "task-arithmetic", base=tiny_llama, to="peft", rank=2)
    base = Checkpoint(tiny_llama)
    cut, whole = read(tmp_path / "out", base), expected(tiny_llama, adapters, [1, 1])
    for layer, told in done.card["layers"].items():
        names = [name for name in cut if name.startswith(layer + ".")]
        lost = [(whole[n] - base[n].double() - cut.difference(n).double()).norm() for n in names]
        total = [(whole[n] - base[n].double()).norm() for n in names]
        assert told == pytest.approx(float(torch.stack(lost).norm() / torch.stack(total).norm()), rel=1e-4)
        for name in names:
            change = whole[name] - base[name].double()
            best = torch.linalg.svdvals(change)[2:].norm()
            assert float((change - cut.difference(name).double()).norm()) == pytest.approx(float(best), rel=1e-4)


def test_a_lora_of_two_checkpoints(tiny_llama, tmp_path):
    model = moved(tiny_llama, tmp_path / "model", 1)
    with pytest.raises(DeltaMismatch, match="give the rank of the nearest LoRA"):
        merge([model], tmp_path / "out", "task-arithmetic", base=tiny_llama, to="peft")
    done = merge([model], tmp_path / "out", "task-arithmetic", base=tiny_llama, to="peft", rank=16)
    layers = {layer: error for layer, error in done.card["layers"].items() if ".layers." in layer}
    assert len(layers) == 4 and all(0 < error < 0.5 for error in layers.values())  # full rank but for the norms
    assert done.card["layers"]["model.embed_tokens"] == done.card["layers"]["model.norm"] == 1.0


def test_a_sum_of_adapters_is_a_low_rank_delta(tiny_llama, adapters, tmp_path):
    given = [0.6, -0.3]
    done = merge(adapters, tmp_path / "out", "task-arithmetic", weights=given, base=tiny_llama, to="delta")
    assert done.card["check"]["largest_difference"] < 1e-4
    base = Checkpoint(tiny_llama)
    delta = load_delta(tmp_path / "out" / "delta.safetensors", base.__getitem__)
    assert {part.kind for part in delta.values()} == {"low-rank"}
    whole = expected(tiny_llama, adapters, given)
    assert all(torch.allclose(delta.apply(n, base[n]).double(), whole[n], atol=1e-6) for n in base)
    pair = Pair.load(tmp_path / "out", str(tiny_llama))
    assert pair.card.parents == [folder.name for folder in adapters]
    # The mean of the models is the base plus the mean of the changes, so that it is low-rank too.
    merge(adapters, tmp_path / "mean", "linear", base=tiny_llama, to="delta", check=False)
    kinds = {part.kind for part in load_delta(tmp_path / "mean" / "delta.safetensors", base.__getitem__).values()}
    assert kinds == {"low-rank"}


def test_a_delta_and_a_checkpoint_of_one_merge_are_the_same_bit_for_bit(tiny_llama, adapters, tmp_path):
    models = [adapters[0], moved(tiny_llama, tmp_path / "model", 1)]
    merge(models, tmp_path / "merged", "ties", base=tiny_llama, check=False)
    merge(models, tmp_path / "delta", "ties", base=tiny_llama, to="delta")
    base, merged = Checkpoint(tiny_llama), Checkpoint(tmp_path / "merged")
    delta = load_delta(tmp_path / "delta" / "delta.safetensors", base.__getitem__)
    assert all(torch.equal(delta.apply(name, base[name]), merged[name]) for name in base)
    merge([tmp_path / "delta"], tmp_path / "again", "passthrough", check=False)
    again = Checkpoint(tmp_path / "again")
    assert all(torch.equal(again[name], merged[name]) for name in merged)


def test_forms_that_cannot_be(tiny_llama, tmp_path):
    model = moved(tiny_llama, tmp_path / "model", 1)
    with pytest.raises(InputError, match="a delta stands on a base"):
        merge([model], tmp_path / "out", to="delta")
    with pytest.raises(InputError, match="an adapter stands on a base"):
        merge([model], tmp_path / "out", to="peft")
    with pytest.raises(InputError, match="rank: is for a LoRA"):
        merge([model], tmp_path / "out", rank=3)
    with pytest.raises(InputError, match="the result equals its base"):
        merge([tiny_llama], tmp_path / "out", "passthrough", base=tiny_llama, to="delta")
