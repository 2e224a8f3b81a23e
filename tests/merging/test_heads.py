"""Deltas that bring a head of their own: merged with it, copied with it, or refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import pairtune
from pairtune import Pair
from pairtune.errors import BaseMismatch, PairtuneError
from pairtune.merging.engine.run import merge
from pairtune.merging.outputs import check
from pairtune.pair.checkpoint import Checkpoint
from pairtune.pair.export import export_merged


@pytest.fixture(scope="module")
def pairs(tiny_bert, tmp_path_factory):
    """Two classifiers on one base, and a third with other labels."""
    found = {}
    for seed, (name, labels) in enumerate({"a": "cat dog", "b": "cat dog", "c": "red blue"}.items()):
        folder = tmp_path_factory.mktemp(name)
        one, two = labels.split()
        rows = [{"text": f"the {one} sat", "label": one}, {"text": f"a {two} ran", "label": two}] * 6
        for split in ("train", "validation"):
            (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        config = {"base": str(tiny_bert), "data": str(folder), "tuner": "full", "out": str(folder / "pair")}
        more = {"seed": seed, "training": {"lr": 0.02, "max_steps": 2}}
        found[name] = pairtune.tune(config | more), folder / "pair"
    return found


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(4, 14).view(2, 5)).logits


def test_a_classifier_is_written_with_its_labels(pairs, tmp_path):
    from transformers import AutoModelForSequenceClassification

    pair, folder = pairs["a"]
    merge([folder], tmp_path / "out", "passthrough")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert torch.allclose(logits(model), logits(pair.model), atol=1e-5)
    assert model.config.id2label == {0: "cat", 1: "dog"}


def test_heads_of_one_task_are_averaged(pairs, tmp_path):
    done = merge([pairs["a"][1], pairs["b"][1]], tmp_path / "out", "task-arithmetic", weights=[0.5, 0.5])
    assert done.card["check"]["prompts"] == 4
    heads = [pairs[name][0].delta["classifier.weight"].value for name in "ab"]
    found = Checkpoint(tmp_path / "out")
    assert torch.allclose(found["classifier.weight"], (heads[0] + heads[1]) / 2, atol=1e-6)
    change = [pairs[name][0].delta.difference("embeddings.word_embeddings.weight") for name in "ab"]
    base = pairs["a"][0].base.stored("embeddings.word_embeddings.weight")
    embedding = found["bert.embeddings.word_embeddings.weight"]
    assert torch.allclose(embedding, base + (change[0] + change[1]) / 2, atol=1e-6)


def test_heads_of_other_labels_are_refused(pairs, tmp_path):
    with pytest.raises(BaseMismatch, match=r"answers with \['cat', 'dog'\], .* with \['(blue|red)', '(red|blue)'\]"):
        merge([pairs["a"][1], pairs["c"][1]], tmp_path / "out", "task-arithmetic")
    assert not (tmp_path / "out").exists()


def test_classifiers_of_images(tiny_vit, tmp_path):
    from tests.data.media_files import photos
    from transformers import AutoModelForImageClassification

    data = photos(tmp_path / "pictures", {"train": 8, "validation": 4})
    config = {"base": str(tiny_vit), "data": str(data), "training": {"lr": 0.01, "max_steps": 3}}
    for tuner in ("full", "lora"):
        pairtune.tune(config | {"tuner": tuner, "out": str(tmp_path / tuner)})
    both = [tmp_path / "full", tmp_path / "lora"]
    merge(both, tmp_path / "mean", "linear")
    merge(both, tmp_path / "fitted", "regmean", data=[data, data], rows=2)
    mean, fitted = (AutoModelForImageClassification.from_pretrained(tmp_path / name) for name in ("mean", "fitted"))
    assert len(mean.config.id2label) > 1 and mean.config.id2label == fitted.config.id2label
    one, other = Checkpoint(tmp_path / "mean"), Checkpoint(tmp_path / "fitted")
    assert any(not torch.allclose(one[name], other[name], atol=1e-5) for name in one if one[name].ndim == 2)
    for name in ("mean", "fitted"):
        asked = json.loads((tmp_path / name / "merge.json").read_text())["check"]
        assert asked["largest_difference"] < 1e-5 < asked["spread"]


def test_a_new_head_is_finer_than_the_base_and_the_coarser_decides(tiny_vit, tmp_path):
    """The head's tensors come first and are float32; the rest is rounded to bfloat16."""
    from tests.data.media_files import photos
    from transformers import AutoModel

    base, data = tmp_path / "base", photos(tmp_path / "pictures", {"train": 8, "validation": 4})
    AutoModel.from_pretrained(tiny_vit, dtype=torch.bfloat16).save_pretrained(base)
    shutil.copy(tiny_vit / "preprocessor_config.json", base)
    for seed in (0, 1):
        config = {"base": str(base), "data": str(data), "training": {"lr": 0.01, "max_steps": 3}, "seed": seed}
        pairtune.tune(config | {"tuner": "full", "out": str(tmp_path / str(seed))})
    merge([tmp_path / "0", tmp_path / "1"], tmp_path / "mean", "linear")
    found = json.loads((tmp_path / "mean" / "merge.json").read_text())["check"]
    assert 1e-4 * found["spread"] < found["largest_difference"] < 5e-2 * found["spread"]
    exported = export_merged(Pair.load(tmp_path / "0"), tmp_path / "exported")
    assert exported["largest_logit_difference"] < 5e-2 * exported["logit_spread"]


@pytest.mark.parametrize("kind", ["dinov2", "clip", "clip tower"])
def test_the_written_classifier_has_what_its_class_has(kind, tmp_path):
    from tests.data.media_files import photos
    from tests.pair.test_modality import models, saved

    base, data = saved(tmp_path / "base", models(kind)), photos(tmp_path / "pictures", {"train": 4, "validation": 4})
    for seed in (0, 1):
        config = {"base": str(base), "data": str(data), "training": {"lr": 0.01, "max_steps": 2}, "seed": seed}
        pairtune.tune(config | {"tuner": "full", "out": str(tmp_path / str(seed))})
    merge([tmp_path / "0", tmp_path / "1"], tmp_path / "mean", "linear")
    found = json.loads((tmp_path / "mean" / "merge.json").read_text())["check"]
    assert found["largest_difference"] < 1e-5 < found["spread"]


def test_a_merge_of_images_that_is_not_its_definition_is_not_kept(tiny_vit, tmp_path, monkeypatch):
    exact = check._exact
    monkeypatch.setattr(check, "_exact", lambda step: exact(step) * 1.2)
    with pytest.raises(PairtuneError, match="outputs differ from those of the definition"):
        merge([tiny_vit, tiny_vit], tmp_path / "mean", "linear")
    assert not (tmp_path / "mean").exists()
