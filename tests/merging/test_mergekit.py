"""mergekit's own files run as they are, and give what mergekit gives where it is there to compare with.

The parity tests run mergekit in an interpreter of its own, named by the environment variable PAIRTUNE_MERGEKIT.
"""

import os
import subprocess

import pytest
import torch
import yaml
from tests.merging.models import configured, moved

from pairtune.errors import ConfigError, InputError
from pairtune.merging.config.gradients import value_for
from pairtune.merging.config.recipe import run_file
from pairtune.merging.engine.in_memory import combine
from pairtune.pair.checkpoint import Checkpoint

PEER = os.environ.get("PAIRTUNE_MERGEKIT")


@pytest.fixture
def folders(tiny_llama, tmp_path):
    return [tiny_llama, *(moved(tiny_llama, tmp_path / name, seed) for seed, name in enumerate("ab"))]


def run(tmp_path, config, **flags):
    file = tmp_path / "config.yml"
    file.write_text(yaml.safe_dump(config))
    return Checkpoint(run_file(file, {"out": str(tmp_path / "out"), "check": False, **flags}).folder)


def ties(folders, **more):
    models = [
        {"model": str(folder), "parameters": {"density": density, "weight": weight}}
        for folder, density, weight in zip(folders[1:], (0.5, 0.7), (0.6, 0.3), strict=True)
    ]
    return {"merge_method": "ties", "base_model": str(folders[0]), "models": models, **more}


def test_weights_and_densities_of_each_model(folders, tmp_path):
    base, *models = (dict(Checkpoint(folder)) for folder in folders)
    found = run(tmp_path, ties(folders, parameters={"normalize": False, "int8_mask": True, "lambda": 0.5}))
    method = configured("ties", density=[0.5, 0.7], normalize=False, scale=0.5)
    expected = combine(models, method, [0.6, 0.3], base)
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_gradients_and_filters(folders, tmp_path):
    config = {
        "merge_method": "slerp",
        "base_model": str(folders[1]),
        "slices": [{"sources": [{"model": str(folder), "layer_range": [0, 4]} for folder in folders[1:]]}],
        "parameters": {
            "t": [{"filter": "self_attn", "value": [0, 1]}, {"filter": "mlp", "value": 0.25}, {"value": 0.5}]
        },
        "dtype": "float32",
    }
    found = run(tmp_path, config)
    models = [dict(Checkpoint(folder)) for folder in folders[1:]]
    for name, t in (
        ("model.layers.0.self_attn.q_proj.weight", 0.0),
        ("model.layers.1.self_attn.q_proj.weight", 1 / 3),
        ("model.layers.3.self_attn.q_proj.weight", 1.0),
        ("model.layers.1.mlp.up_proj.weight", 0.25),
        ("model.embed_tokens.weight", 0.5),
        ("model.norm.weight", 0.5),
    ):
        expected = combine(models, configured("slerp", t=t), names=[name])[name]
        assert torch.allclose(found[name], expected, atol=1e-6), name


def test_layers_of_models_are_stacked(folders, tmp_path):
    from transformers import AutoModelForCausalLM

    config = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": str(folders[1]), "layer_range": [0, 3]}]},
            {"sources": [{"model": str(folders[2]), "layer_range": [1, 4]}]},
        ],
    }
    found = run(tmp_path, config, check=True)
    one, two = (Checkpoint(folder) for folder in folders[1:])
    part = "mlp.up_proj.weight"
    for layer, (source, origin) in enumerate([(one, 0), (one, 1), (one, 2), (two, 1), (two, 2), (two, 3)]):
        assert torch.equal(found[f"model.layers.{layer}.{part}"], source[f"model.layers.{origin}.{part}"])
    assert torch.equal(found["model.embed_tokens.weight"], one["model.embed_tokens.weight"])
    assert torch.equal(found["model.norm.weight"], two["model.norm.weight"])
    assert len(AutoModelForCausalLM.from_pretrained(tmp_path / "out").model.layers) == 6


def test_what_is_not_supported_is_named(folders, tmp_path):
    config = ties(folders, tokenizer_source="union", chat_template="auto", out_dtype="bfloat16")
    config["models"][0]["weight"] = 1
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, config)
    assert {problem.partition(":")[0] for problem in caught.value.problems} == {
        "tokenizer_source",
        "chat_template",
        "out_dtype",
        "models[0].weight",
    }
    with pytest.raises(ConfigError, match="merge_method: 'karcher' is not supported; there are linear"):
        run(tmp_path, ties(folders) | {"merge_method": "karcher"})
    with pytest.raises(ConfigError, match="parameters.epsilon: ties has no such parameter"):
        run(tmp_path, ties(folders, parameters={"epsilon": 0.1}))
    with pytest.raises(ConfigError, match="parameters.rescale: True is not supported"):
        run(tmp_path, ties(folders, parameters={"rescale": True}))
    part = {"model": str(folders[1]), "layer_range": [2, 7]}
    with pytest.raises(ConfigError, match=r"layers \[2, 7\) of .*, which has 4"):
        run(tmp_path, {"merge_method": "passthrough", "slices": [{"sources": [part]}]})
    with pytest.raises(InputError, match="--base: .* is a mergekit configuration"):
        run(tmp_path, ties(folders), base="x")
    no_weight = ties(folders)
    del no_weight["models"][1]["parameters"]["weight"]
    with pytest.raises(ConfigError, match="parameters.weight: there is none for"):
        run(tmp_path, no_weight)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "setting, t, found",
    [
        (0.3, 0.5, 0.3),
        ([0, 1], 0.25, 0.25),
        ([0, 1, 0], 0.75, 0.5),
        ([1, 2], 1.0, 2.0),
        ([{"value": 1, "filter": "z"}], 0, None),
    ],
)
def test_values_at_a_place(setting, t, found):
    assert value_for(setting, "model.x", t, "here") == found


def test_a_value_of_another_kind_is_refused():
    with pytest.raises(InputError, match="here: expected a number, a list"):
        value_for([1, "x"], "model.x", 0, "here")


@pytest.mark.skipif(not PEER, reason="mergekit is not here: set PAIRTUNE_MERGEKIT to an interpreter that has it")
@pytest.mark.parametrize(
    "method, parameters",
    [
        ("linear", {"normalize": True}),
        ("linear", {"normalize": False}),
        ("task_arithmetic", {"lambda": 0.7}),
        ("ties", {}),
        ("ties", {"normalize": False, "lambda": 1.3}),
        ("breadcrumbs", {"gamma": 0.05}),
        ("model_stock", {}),
        ("slerp", {"t": [0.2, 0.8]}),
    ],
)
def test_parity_with_mergekit(folders, tmp_path, method, parameters):
    """Within 2e-6 in float32: both compute in it, in another order. No entry ties with another in these models."""
    config = ties(folders, parameters=parameters, dtype="float32") | {"merge_method": method}
    for model in config["models"]:
        if method not in ("ties", "breadcrumbs"):
            del model["parameters"]["density"]
        if method in ("model_stock", "slerp"):
            del model["parameters"]
    if method == "linear":
        del config["base_model"]
    if method == "slerp":
        config["base_model"] = str(folders[1])
    found = run(tmp_path, config)
    command = [PEER, "-m", "mergekit.scripts.run_yaml", str(tmp_path / "config.yml"), str(tmp_path / "peer")]
    subprocess.run(command, check=True, capture_output=True, timeout=300, env={**os.environ, "PYTHONPATH": ""})
    theirs = Checkpoint(tmp_path / "peer")
    assert set(theirs) <= set(found) | {"lm_head.weight"}
    for name in found:
        assert torch.allclose(found[name], theirs[name], atol=2e-6), name
