"""Every recipe is a valid run file, and each stage begins where the last one ended."""

import json

import pytest
import torch

from pairtune import recipes
from pairtune.errors import InputError
from pairtune.pair.pair import Pair
from pairtune.training.config import RunConfig, merged
from pairtune.training.run import tune

BATCH = {"input_ids": torch.tensor([[1, 8, 9, 60, 11]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in (("train", 16), ("validation", 8)):
        rows = [
            {"text": f"the {'money dog'.split()[i % 2]} is {'old new good'.split()[i % 3]} {i}"} for i in range(count)
        ]
        lines = [json.dumps({**row, "label": "ab"[i % 2]}) for i, row in enumerate(rows)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


def run(name, base, data, out):
    """The recipe with a few steps a stage."""
    values = recipes.find(name).values
    stages = [{**stage, "training": {"lr": 0.02}} for stage in values["stages"]]
    config = {"base": str(base), "data": str(data), "device": "cpu", "out": str(out)}
    return tune(merged(values, {**config, "stages": stages, "training": {"max_steps": 3, "batch_size": 8}}))


def logits(pair):
    with torch.no_grad():
        return pair.forward(BATCH).logits


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_is_a_run_file_that_says_what_it_is(name):
    recipe = recipes.find(name)
    assert recipe.summary.endswith(".") and "arXiv" in recipe.doc
    config = RunConfig.of({**recipe.values, "base": "b", "data": "d"})
    assert [step.tuner.name for step in config.steps()] == recipe.stages
    assert RunConfig.read(recipe.path, {"base": "b", "data": "d"}) == config


def test_a_misspelt_recipe_is_answered_with_the_nearest():
    with pytest.raises(InputError, match="did you mean lp-ft"):
        recipes.find("lpft")


def test_lp_ft_hands_the_fitted_head_to_full_tuning(tiny_bert, data, tmp_path):
    pair = run("lp-ft", tiny_bert, data, tmp_path / "out")
    base, head, full = pair.base, *(layer.installed for layer in pair.layers)
    before = base.checksum()
    assert [name for name, _ in head.trainable()] == ["classifier.bias", "classifier.weight"]
    # What full tuning set out from is the fitted head, and the base's own blocks.
    fitted = head.state()
    assert all(torch.equal(full.originals[name], value) for name, value in fitted.items())
    assert not torch.equal(fitted["classifier.weight"], base.parameters["classifier.weight"])
    assert all(full.originals[n] is p for n, p in base.parameters.items() if not n.startswith("classifier"))
    assert not torch.equal(full.state()["classifier.weight"], fitted["classifier.weight"])
    again = Pair.load(tmp_path / "out")
    assert torch.equal(logits(again), logits(pair))
    with pair.reference(), again.reference():
        assert torch.equal(logits(again), logits(pair))
    assert base.checksum() == before


def test_levi_stands_on_the_tuned_base(tiny_bert, data, tmp_path):
    pair = run("levi-on-tuned", tiny_bert, data, tmp_path / "out")
    levi = pair.top.installed
    on = levi.features(BATCH)["pooled"]
    assert len(levi.model(**BATCH).views) == 4
    with pair.off():
        assert not torch.allclose(levi.features(BATCH)["pooled"], on, atol=1e-4)
    again = Pair.load(tmp_path / "out")
    assert torch.equal(logits(again), logits(pair))


def stable(base, data, out, **over):
    """The stable recipe with settings laid over it, for a few steps."""
    config = {"base": str(base), "data": str(data), "device": "cpu", "out": str(out)}
    training = {"max_steps": 4, "batch_size": 8, "lr": 0.01}
    return tune(merged(recipes.find("stable-finetuning").values, {**config, "training": training, **over}))


def test_stable_finetuning_freezes_half_and_every_remedy_is_a_flag(tiny_bert, data, tmp_path):
    pair = stable(tiny_bert, data, tmp_path / "out")
    base = pair.base.parameters
    kept = {name for name, value in pair.top.installed.state().items() if torch.equal(value, base[name])}
    assert kept == {name for name in base if "embeddings." in name or "layer.0." in name}
    off = {"freeze": {"embeddings": False, "blocks": 0}, "layer-decay": {"factor": 1.0}}
    plain = tune({
        "base": str(tiny_bert), "data": str(data), "device": "cpu", "tuner": "full", "out": str(tmp_path / "plain"),
        "training": {"max_steps": 4, "batch_size": 8, "lr": 0.01, "warmup": 0.1},
    })  # fmt: skip
    none = stable(tiny_bert, data, tmp_path / "none", constraint=off)
    assert all(torch.equal(v, plain.top.installed.state()[n]) for n, v in none.top.installed.state().items())
    fresh = stable(tiny_bert, data, tmp_path / "fresh", constraint={"reinit": {"blocks": 1}})
    top = "bert.encoder.layer.2.output.dense.weight"
    # Drawn anew: nothing of the base is left in it. Tuned from the base, it has moved a little.
    assert torch.dist(pair.top.installed.state()[top], base[top]) < 0.5 * base[top].norm()
    assert torch.dist(fresh.top.installed.state()[top], base[top]) > 0.9 * base[top].norm()
