"""Recipes that make every layer of something else: written and read back, run by the engine, and refused in words."""

import pytest
import torch
from tests.merging.models import configured, moved

from pairtune.errors import ConfigError, InputError
from pairtune.merging.config.layer_recipe import Entry, entries
from pairtune.merging.config.recipe import Model, Recipe
from pairtune.merging.engine.by_layer import Choice
from pairtune.merging.engine.in_memory import combine
from pairtune.pair.checkpoint import Checkpoint

CHOICES = {
    "model.layers.0": Choice("ties", (1, 2), (1.0, 1.0), (("density", 0.3), ("scale", 0.8))),
    "model.layers.1": Choice("ties", (1, 2), (1.0, 1.0), (("density", 0.3), ("scale", 0.8))),
    "model.layers.2": Choice("slerp", (0, 2), (1.0, 1.0), (("t", 0.7),)),
    "model.layers.3": Choice("keep", (1,), (1.0,)),
    "rest": Choice("task-arithmetic", (1, 2), (0.5, 0.25)),
}


@pytest.fixture(scope="module")
def models(tiny_llama, tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    return [str(tiny_llama), *(str(moved(tiny_llama, place / name, seed)) for seed, name in enumerate("ab"))]


def recipe(models, layers, **values):
    return Recipe.of({"models": models, "base": models[0], "out": "unused", "layers": layers, **values}, "here")


def test_a_recipe_says_what_was_chosen(models):
    written = entries(models, CHOICES)
    assert written[0]["layers"] == ["model.layers.0", "model.layers.1"]
    assert written[0]["method"] == {"name": "ties", "density": 0.3, "scale": 0.8}
    again = {layer: one.choice(models, "") for one in map(Entry.model_validate, written) for layer in one.layers}
    for layer, choice in CHOICES.items():
        mine, theirs = choice.rule, again[layer].rule
        assert type(mine.method) is type(theirs.method) and mine.method.settings == theirs.method.settings
        assert again[layer].models == choice.models
        assert not mine.method.weighted or mine.weights == theirs.weights


def test_the_engine_writes_the_layers_as_the_methods_make_them(models, tmp_path):
    done = recipe(models, entries(models, CHOICES), out=str(tmp_path / "merged")).run()
    found, (base, a, b) = Checkpoint(done.folder), [dict(Checkpoint(path)) for path in models]
    expected = {
        "model.layers.0": combine([a, b], configured("ties", density=0.3, scale=0.8), base=base),
        "model.layers.2": combine([base, b], configured("slerp", t=0.7)),
        "model.layers.3": a,
        "model.embed_tokens": combine([a, b], configured("task-arithmetic"), [0.5, 0.25], base),
    }
    assert set(found) == set(base)
    for lead, tensors in expected.items():
        names = [name for name in found if name.startswith(lead)]
        assert names
        for name in names:
            assert torch.equal(found[name], tensors[name]), name
    assert done.card["method"] == "by layer" and len(done.card["by_layer"]) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e[:-1], "rest is in no entry"),
        (lambda e: [*e, {"layers": ["model.layers.1"], "method": "linear"}], "stands in an entry before"),
        (lambda e: [*e, {"layers": ["model.layer.9"], "method": "linear"}], "no layer model.layer.9; did you mean"),
        (lambda e: [{**e[0], "models": ["c", "d"]}, *e[1:]], "c is not one of the recipe's"),
        (lambda e: [{**e[0], "weights": [1.0]}, *e[1:]], "1 for 2 models"),
        (lambda e: [{**e[0], "method": "tie"}, *e[1:]], "there is no merge 'tie'; did you mean ties"),
        (lambda e: [{**e[0], "method": {"name": "ties", "dens": 1}}, *e[1:]], "no such setting"),
        (lambda e: [{**e[0], "method": "slerp", "models": None}, *e[1:]], "slerp: takes 2 models"),
        (lambda e: [{**e[0], "wieghts": [1.0, 2.0]}, *e[1:]], "wieghts"),
    ],
)
def test_wrong_entries_are_refused(models, tmp_path, change, said):
    with pytest.raises(InputError, match=said):
        recipe(models, change(entries(models, CHOICES)), out=str(tmp_path / "merged")).run()
    assert not (tmp_path / "merged").exists()


def test_what_speaks_of_all_layers_has_no_place_beside(models):
    with pytest.raises(ConfigError, match="method: has no place"):
        recipe(models, entries(models, CHOICES), method="linear").run()
    weighted = [{"model": model, "weight": 1.0} for model in models]
    with pytest.raises(ConfigError, match="weight: has no place"):
        recipe(models, entries(models, CHOICES)).model_copy(update={"models": [Model(**one) for one in weighted]}).run()
