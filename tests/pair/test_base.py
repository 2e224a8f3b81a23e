"""Loading a base: the right class, nothing initialised in silence, one fingerprint however it is loaded."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pairtune.errors import FormatError, InputError
from pairtune.pair.base import Base


def copy(folder, target):
    return shutil.copytree(folder, target)


def test_the_family_and_class_follow_the_checkpoint(tiny_llama, tiny_bert, tiny_t5):
    llama, bert, t5 = Base.load(tiny_llama), Base.load(tiny_bert), Base.load(tiny_t5)
    assert (llama.family, bert.family, t5.family) == ("causal", "encoder", "seq2seq")
    assert type(bert.model).__name__ == "BertModel"
    assert not any(p.requires_grad for base in (llama, bert, t5) for p in base.parameters.values())
    assert not any(base.model.training for base in (llama, bert, t5))
    assert "float32" in llama.describe() and "loaded" in llama.describe()


def test_a_new_head_is_known_as_new_and_repeats_with_its_seed(tiny_bert):
    one, two = (Base.load(tiny_bert, task="classification", labels=["a", "b", "c"]) for _ in range(2))
    other = Base.load(tiny_bert, task="classification", labels=["a", "b", "c"], head_seed=1)
    assert one.new_names == {"classifier.weight", "classifier.bias"}
    assert torch.equal(one.parameters["classifier.weight"], two.parameters["classifier.weight"])
    assert not torch.equal(one.parameters["classifier.weight"], other.parameters["classifier.weight"])


def test_the_fingerprint_ignores_the_head_and_sees_one_changed_value(tiny_bert, tmp_path):
    bare = Base.load(tiny_bert).fingerprint
    headed = Base.load(tiny_bert, task="classification", labels=["a", "b"]).fingerprint
    assert bare.weights == headed.weights and bare.tokenizer == headed.tokenizer
    folder = copy(tiny_bert, tmp_path / "changed")
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.1.output.dense.bias"][3] += 1e-6
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    changed = Base.load(folder).fingerprint
    assert changed.weights != bare.weights
    assert "encoder.layer.1.output.dense.bias" in (bare.first_difference(changed) or "")


def test_the_tokenizer_has_its_own_digest(tiny_bert, tmp_path):
    folder = copy(tiny_bert, tmp_path / "tokens")
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"cat"', '"kat"'))
    one, two = Base.load(tiny_bert).fingerprint, Base.load(folder).fingerprint
    assert one.weights == two.weights and one.tokenizer != two.tokenizer


def test_a_missing_tensor_is_an_error(tiny_bert, tiny_llama, tmp_path):
    for source, name in ((tiny_bert, "encoder.layer.0.output.dense.weight"), (tiny_llama, "model.norm.weight")):
        folder = copy(source, tmp_path / source.name)
        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(FormatError, match=name.split(".", 1)[1]):
            Base.load(folder)
        with pytest.raises(FormatError, match=name.split(".", 1)[1]):
            Base.load(folder, task="classification", labels=["a", "b"])


def test_a_tokenizer_of_another_checkpoint_is_refused(tiny_llama, tmp_path):
    from transformers import AutoTokenizer

    folder = copy(tiny_llama, tmp_path / "vocabulary")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(FormatError, match="embedding has"):
        Base.load(folder)


def test_wrong_requests_are_one_sentence(tiny_bert, tmp_path):
    with pytest.raises(InputError, match="encoder"):
        Base.load(tiny_bert, task="seq2seq")
    with pytest.raises(InputError, match="labels"):
        Base.load(tiny_bert, task="classification")
    with pytest.raises(InputError):
        Base.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="float99"):
        Base.load(tiny_bert, dtype="float99")


def test_a_pretraining_head_is_left_out_and_a_missing_pooler_is_no_fault(tiny_bert, tmp_path):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    AutoModelForMaskedLM.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    bare, headed = Base.load(tmp_path), Base.load(tmp_path, task="classification", labels=["a", "b"])
    assert bare.new_names == {"pooler.dense.weight", "pooler.dense.bias"}
    assert {"classifier.weight", "bert.pooler.dense.weight"} <= headed.new_names
    assert bare.fingerprint.weights == headed.fingerprint.weights


def test_a_list_in_a_config_file_that_nobody_loads_is_no_fault(tiny_bert, tmp_path):
    folder = copy(tiny_bert, tmp_path / "listed")
    (folder / "data_config.json").write_text('[{"name": "corpus", "lines": 3}]')
    assert Base.load(folder).family == "encoder"
