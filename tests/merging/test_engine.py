"""The streaming engine: shards, inputs of every kind, what is copied, and what is refused."""

import json
import struct

import pytest
import torch
from tests.merging.models import configured, moved

import pairtune
from pairtune.errors import BaseMismatch, DeltaMismatch, FormatError, InputError
from pairtune.merging.engine.plan import Rule, plan
from pairtune.merging.engine.run import merge
from pairtune.merging.inputs.sources import Source
from pairtune.pair.checkpoint import Checkpoint
from pairtune.pair.complete import verify
from pairtune.pair.delta import Delta
from pairtune.pair.files import write_safetensors
from pairtune.pair.parts import Dense


@pytest.fixture
def pair_of_models(tiny_llama, tmp_path):
    return [moved(tiny_llama, tmp_path / name, seed) for seed, name in enumerate("ab")]


def mean(folders, weights):
    tensors = [Checkpoint(folder) for folder in folders]
    return {n: sum(w * t[n].double() for w, t in zip(weights, tensors, strict=True)).float() for n in tensors[0]}


def close(folder, expected):
    found = Checkpoint(folder)
    return sorted(found) == sorted(expected) and all(
        torch.allclose(found[n], t, atol=1e-6) for n, t in expected.items()
    )


def test_shards_are_those_of_transformers(pair_of_models, tmp_path):
    from transformers import AutoModelForCausalLM

    merge(pair_of_models, tmp_path / "out", weights=[0.3, 0.7], max_shard_size="4KB")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    verify(tmp_path / "out")
    expected = mean(pair_of_models, [0.3, 0.7])
    assert close(tmp_path / "out", expected)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.model.norm.weight, Checkpoint(tmp_path / "out")["model.norm.weight"])
    # A sharded model is an input like any other.
    merge([tmp_path / "out", pair_of_models[0]], tmp_path / "again", weights=[1, 0])
    assert close(tmp_path / "again", expected)


def test_the_number_of_threads_changes_nothing(pair_of_models, tmp_path):
    for threads in (1, 3):
        merge(pair_of_models, tmp_path / str(threads), threads=threads, check=False)
    one, three = ((tmp_path / name / "model.safetensors").read_bytes() for name in "13")
    assert one == three


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_deltas_and_checkpoints_mix(tiny_llama, tmp_path, tuner):
    rows = [{"text": "the cat sat", "label": "cat"}, {"text": "a dog ran", "label": "dog"}] * 6
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = {"base": str(tiny_llama), "data": str(tmp_path), "tuner": tuner, "out": str(tmp_path / "pair")}
    pair = pairtune.tune(config | {"training": {"lr": 0.05, "max_steps": 2}})
    model = moved(tiny_llama, tmp_path / "model", 3)
    done = merge([tmp_path / "pair", model], tmp_path / "out", "task-arithmetic", weights=[0.5, 2.0])
    base, other = Checkpoint(tiny_llama), Checkpoint(model)
    delta = pair.delta
    for name in base:
        change = delta.difference(name) if name in delta else 0
        expected = base[name] + 0.5 * change + 2.0 * (other[name] - base[name])
        assert torch.allclose(Checkpoint(tmp_path / "out")[name], expected, atol=1e-6), name
    assert done.card["base"]["source"] == tiny_llama.name
    assert [parent["kind"] for parent in done.card["models"]] == ["delta", "checkpoint"]


def test_what_no_delta_changes_is_copied(tiny_llama):
    base = Checkpoint(tiny_llama)
    name = "model.norm.weight"
    delta = Delta({name: Dense(torch.ones(base.shape(name)))})
    source = Source("delta", None, base, delta)
    steps = plan([source], Source("base", None, base), lambda _: Rule(configured("task-arithmetic"), (1.0,)))
    assert [step.name for step in steps if step.rule is not None] == [name]


def test_models_of_two_bases_are_refused_with_what_differs(tiny_llama, tiny_bert, tmp_path):
    with pytest.raises(BaseMismatch, match="model_type"):
        merge([tiny_llama, tiny_bert], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_quantised_model_is_refused(tiny_llama, pair_of_models, tmp_path):
    path = pair_of_models[1] / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(BaseMismatch, match="b is stored quantised"):
        merge(pair_of_models, tmp_path / "out")


def test_whole_numbers_that_differ_are_refused(pair_of_models, tmp_path):
    for i, folder in enumerate(pair_of_models):
        tensors = {name: tensor.clone() for name, tensor in Checkpoint(folder).items()}
        write_safetensors(folder / "model.safetensors", tensors | {"codes": torch.full((4,), i, dtype=torch.uint8)})
    with pytest.raises(DeltaMismatch, match="codes holds whole numbers"):
        merge(pair_of_models, tmp_path / "out")


def test_a_missing_tensor_is_refused_by_name(tiny_llama, pair_of_models, tmp_path):
    tensors = dict(Checkpoint(pair_of_models[1]))
    del tensors["model.norm.weight"]
    write_safetensors(pair_of_models[1] / "model.safetensors", {k: v.clone() for k, v in tensors.items()})
    with pytest.raises(BaseMismatch, match=r"model\.norm\.weight: missing in .*b, there in"):
        merge(pair_of_models, tmp_path / "out")


def test_nan_names_model_and_tensor_and_leaves_nothing(pair_of_models, tmp_path):
    tensors = {name: tensor.clone() for name, tensor in Checkpoint(pair_of_models[1]).items()}
    tensors["model.norm.weight"][3] = float("nan")
    write_safetensors(pair_of_models[1] / "model.safetensors", tensors)
    with pytest.raises(DeltaMismatch, match=r"b: NaN or infinite values in model\.norm\.weight"):
        merge(pair_of_models, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_truncated_file_is_refused(pair_of_models, tmp_path):
    path = pair_of_models[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(FormatError, match="truncated"):
        merge(pair_of_models, tmp_path / "out")


def test_a_header_that_lies_is_refused(pair_of_models, tmp_path):
    path = pair_of_models[1] / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 40) + path.read_bytes()[8:])
    with pytest.raises(FormatError):
        merge(pair_of_models, tmp_path / "out")


def test_wrong_calls_say_what_would_be_right(pair_of_models, tmp_path):
    with pytest.raises(InputError, match="give it with --base"):
        merge(pair_of_models, tmp_path / "out", "task-arithmetic")
    with pytest.raises(InputError, match="2 models, found 3"):
        merge(pair_of_models, tmp_path / "out", weights=[1, 2, 3])
    with pytest.raises(InputError, match="sum to 0"):
        merge(pair_of_models, tmp_path / "out", weights=[1, -1])
    with pytest.raises(InputError, match="5GB"):
        merge(pair_of_models, tmp_path / "out", max_shard_size="five")
    with pytest.raises(InputError, match="there is no merge 'lineal'; did you mean linear"):
        merge(pair_of_models, tmp_path / "out", "lineal")
    assert not (tmp_path / "out").exists()
