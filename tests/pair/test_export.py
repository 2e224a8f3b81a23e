"""An exported checkpoint answers as the pair does, or is not kept; stock transformers and PEFT load what is written."""

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

import pairtune
from pairtune.errors import InputError, MissingView, PairtuneError
from pairtune.pair.export import export_adapter, export_merged


def tuned(base, folder, tuner, **more):
    config = {"base": str(base), "data": str(folder), "tuner": tuner, "training": {"lr": 0.01, "max_steps": 2}}
    return pairtune.tune(config | more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import json

    place = tmp_path_factory.mktemp("rows")
    rows = [{"text": "the cat sat", "label": "cat"}, {"text": "a dog ran", "label": "dog"}] * 6
    for name in ("train", "validation"):
        (place / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return place


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(4, 14).view(2, 5)).logits


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_a_merged_language_model_is_an_ordinary_checkpoint(tiny_llama, folder, tmp_path, tuner):
    pair = tuned(tiny_llama, folder, tuner)
    found = export_merged(pair, tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(model), logits(pair.model.eval()), atol=1e-5)
    assert found["largest_logit_difference"] < 1e-4
    with pair.off():
        assert not torch.allclose(logits(pair.model), logits(model), atol=1e-5)


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_a_merged_classifier_keeps_its_labels(tiny_bert, folder, tmp_path, tuner):
    from transformers import AutoModelForSequenceClassification

    pair = tuned(tiny_bert, folder, tuner)
    export_merged(pair, tmp_path / "merged")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(model), logits(pair.model.eval()), atol=1e-5)
    assert model.config.id2label == {0: "cat", 1: "dog"}


def test_an_exported_adapter_loads_in_peft(tiny_llama, folder, tmp_path):
    from peft import PeftModel

    pair = tuned(tiny_llama, folder, "lora")
    export_adapter(pair, tmp_path / "adapter")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), tmp_path / "adapter").eval()
    assert torch.allclose(logits(model), logits(pair.model.eval()), atol=1e-6)


def test_what_cannot_be_exported_is_refused_by_name(tiny_llama, folder, tmp_path):
    full = tuned(tiny_llama, folder, "full")
    with pytest.raises(MissingView, match="not a PEFT adapter"):
        export_adapter(full, tmp_path / "adapter")
    ladder = tuned(tiny_llama, folder, "ladder")
    with pytest.raises(MissingView, match="ladder"):
        export_merged(ladder, tmp_path / "merged")
    with pytest.raises(InputError):
        export_adapter(pairtune.Pair(full.base), tmp_path / "adapter")


def test_nothing_is_kept_when_the_outputs_disagree(tiny_llama, folder, tmp_path):
    pair = tuned(tiny_llama, folder, "full")
    delta = pair.delta
    pair.layers[0].delta = lambda: delta * 3.0
    with pytest.raises(PairtuneError, match="nothing was kept"):
        export_merged(pair, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_change_that_the_stored_type_cannot_hold_is_refused_with_the_way_out(tiny_llama, folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16)
    with torch.no_grad():  # near 1, bfloat16 has steps of 0.008
        for parameter in model.parameters():
            parameter.copy_(torch.where(parameter < 0, -1.0, 1.0))
    shutil.copytree(tiny_llama, tmp_path / "coarse")
    model.save_pretrained(tmp_path / "coarse")
    pair = tuned(tmp_path / "coarse", folder, "full", training={"lr": 3e-3, "max_steps": 2})
    with pytest.raises(PairtuneError, match="nothing was kept. Rounding to bfloat16 may lose .* try --dtype float32"):
        export_merged(pair, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    found = export_merged(pair, tmp_path / "merged", torch.float32)
    assert found["dtype"] == "float32" and found["largest_logit_difference"] < 1e-4
