"""Loading through transformers: complete checkpoints only, quietly, and nothing from outside of the folder."""

from __future__ import annotations

import json
import logging as std_logging
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging

from pairtune.errors import FormatError, InputError
from pairtune.pair import hub
from pairtune.pair.files import open_safetensors, read_json, write_json, write_safetensors


@pytest.fixture
def bert(tiny_bert, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_bert, tmp_path / "bert"))


@pytest.fixture
def llama(tiny_llama, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "llama"))


def stored(folder: Path) -> dict[str, torch.Tensor]:
    opened = open_safetensors(folder / "model.safetensors")
    return {name: opened.tensor(name).clone() for name in opened}


def store(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})


def shard(folder: Path, names: dict[str, str] | None = None) -> None:
    """Turn a checkpoint into two shards; `names` renames them in the index."""
    tensors, weight_map = stored(folder), {}
    for i, name in enumerate(("model-1.safetensors", "model-2.safetensors")):
        part = {key: tensors[key] for key in sorted(tensors)[i::2]}
        write_safetensors(folder / name, part, {"format": "pt"})
        weight_map |= dict.fromkeys(part, (names or {}).get(name, name))
    (folder / "model.safetensors").unlink()
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": weight_map})


def test_a_model_loads_whole_and_quietly(llama, capfd):
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    single, info = hub.load_model(AutoModelForCausalLM, llama)
    expected = {name: tensor.clone() for name, tensor in single.state_dict().items()}
    assert not any(info.values())
    shard(llama)
    sharded, _ = hub.load_model(AutoModelForCausalLM, str(llama))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in sharded.state_dict().items())
    assert hub.load_config(llama).num_hidden_layers == 4
    assert hub.load_tokenizer(llama)("the cat")["input_ids"][0] == 1
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)
    assert capfd.readouterr() == ("", "")


def test_a_missing_tensor_is_an_error_and_never_random(llama):
    tensors = stored(llama)
    gone = "model.layers.1.mlp.up_proj.weight"
    store(llama, {name: tensor for name, tensor in tensors.items() if name != gone})
    with pytest.raises(FormatError, match=rf"1 missing from the checkpoint: {gone}\. Nothing is initialised at random"):
        hub.load_model(AutoModelForCausalLM, llama)


def test_all_that_does_not_fit_is_listed_together(llama):
    tensors = stored(llama)
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    tensors["model.norm.weight"] = torch.ones(3)
    tensors["model.layers.9.extra"] = torch.ones(2)
    store(llama, tensors)
    with pytest.raises(FormatError) as error:
        hub.load_model(AutoModelForCausalLM, llama)
    for words in (
        "1 missing",
        "up_proj",
        "1 not used by the model: model.layers.9.extra",
        "has the shape [3], expected [16]",
    ):
        assert words in str(error.value)


def test_only_the_named_head_may_be_new(bert):
    head = ("classifier.weight", "classifier.bias")
    pooler = {name: value for name, value in stored(bert).items() if not name.startswith("pooler.")}
    with pytest.raises(FormatError, match=r"2 missing from the checkpoint: classifier\.bias, classifier\.weight"):
        hub.load_model(AutoModelForSequenceClassification, bert, num_labels=3)
    model, info = hub.load_model(AutoModelForSequenceClassification, bert, num_labels=3, allow_new=head.__contains__)
    assert info["missing_keys"] == sorted(head)
    model.save_pretrained(bert)
    _, info = hub.load_model(AutoModelForSequenceClassification, bert, num_labels=5, allow_new=head.__contains__)
    assert sorted(name for name, *_ in info["mismatched_keys"]) == sorted(head)
    with pytest.raises(FormatError, match=r"2 not used by the model: classifier\.bias, classifier\.weight"):
        hub.load_model(AutoModel, bert)
    store(bert, pooler)
    with pytest.raises(FormatError, match="2 missing from the checkpoint: bert.pooler"):
        hub.load_model(AutoModelForSequenceClassification, bert, num_labels=3, allow_new=head.__contains__)


@pytest.fixture
def talking():
    """transformers says what it usually says, whatever other tests have turned down."""
    before = logging.get_verbosity()
    logging.set_verbosity_warning()
    yield
    logging.set_verbosity(before)


@pytest.mark.usefixtures("talking")
def test_a_new_head_is_not_reported_twice(bert, monkeypatch):
    """transformers would print a table of it; `Base` says it in its one line."""
    records = []
    library = std_logging.getLogger("transformers.modeling_utils")
    monkeypatch.setattr(library, "handle", records.append)
    AutoModelForSequenceClassification.from_pretrained(bert)
    assert len(records) == 1, "the control"
    hub.load_model(AutoModelForSequenceClassification, bert, allow_new=lambda name: "classifier" in name)
    assert len(records) == 1


def test_damaged_files_give_typed_errors(llama):
    whole = (llama / "model.safetensors").read_bytes()
    (llama / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(FormatError, match=r"model\.safetensors: truncated"):
        hub.load_model(AutoModelForCausalLM, llama)
    for name, load in (("config.json", hub.load_config), ("tokenizer.json", hub.load_tokenizer)):
        for text in ("{", "[]", '{"model_type": "no-such-type"}', '{"model_type": 3}', '{"a": {"a": 1, "a": 1}}'):
            (llama / name).write_text(text)
            with pytest.raises(FormatError):
                load(llama)


def test_an_adapter_is_not_a_model_and_does_not_lead_to_another(llama, bert):
    """transformers itself would follow `base_model_name_or_path` to wherever the adapter points."""
    write_json(bert / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": str(llama)})
    (bert / "config.json").unlink()
    with pytest.raises(FormatError, match="a PEFT adapter, not a model"):
        hub.load_model(AutoModel, bert)


@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_a_shard_outside_of_the_folder_is_not_opened(llama, tmp_path, opened_in, kind):
    outside = tmp_path / "outside"
    outside.mkdir()
    name = {"parent": "../outside/x.safetensors", "absolute": f"{outside}/x.safetensors", "link": "link.safetensors"}[
        kind
    ]
    shard(llama, {"model-2.safetensors": name})
    (llama / "model-2.safetensors").rename(outside / "x.safetensors")
    (llama / "link.safetensors").symlink_to("../outside/x.safetensors")
    with opened_in(outside) as control:
        AutoModelForCausalLM.from_pretrained(llama)
    assert control, "transformers itself opens it: the reason for the check"
    with opened_in(outside) as opened, pytest.raises(FormatError, match="leads out|symbolic link out"):
        hub.load_model(AutoModelForCausalLM, llama)
    assert opened == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_link_out_of_the_folder_is_not_opened(bert, tmp_path, opened_in, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (bert / name).unlink(missing_ok=True)
    (outside / "x").write_text("{}")
    (bert / name).symlink_to("../outside/x")
    with opened_in(outside) as opened:
        for load in (hub.load_config, hub.load_tokenizer, lambda folder: hub.load_model(AutoModel, folder)):
            with pytest.raises(FormatError, match=f"'{name}' is a symbolic link out"):
                load(bert)
    assert opened == []


def test_file_names_in_configs_do_not_lead_outside(bert, tmp_path, opened_in):
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("config.4.0.0.json", "tokenizer.4.0.0.json", "vocab.txt", "x.safetensors"):
        (outside / name).write_text("{}")
    config = read_json(bert / "config.json")
    tokenizer = read_json(bert / "tokenizer_config.json")
    attacks = [
        ("config.json", {**config, "configuration_files": ["../outside/config.4.0.0.json"]}, "leads out"),
        ("config.json", {**config, "transformers_weights": "../outside/x.safetensors"}, "its own weights file"),
        (
            "tokenizer_config.json",
            {**tokenizer, "fast_tokenizer_files": ["../outside/tokenizer.4.0.0.json"]},
            "leads out",
        ),
    ]
    with opened_in(outside) as opened:
        for name, content, message in attacks:
            before = (bert / name).read_bytes()
            (bert / name).write_text(json.dumps(content))
            for load in (hub.load_config, hub.load_tokenizer, lambda folder: hub.load_model(AutoModel, folder)):
                with pytest.raises(FormatError, match=message):
                    load(bert)
            (bert / name).write_bytes(before)
        # Paths of the machine where a tokenizer was saved are common, and transformers does not follow them.
        write_json(bert / "tokenizer_config.json", {**tokenizer, "vocab_file": f"{outside}/vocab.txt"})
        assert hub.load_tokenizer(bert)("the cat")["input_ids"][0] == 1
    assert opened == []


def test_a_local_folder_is_taken_as_it_is_and_has_no_revision(bert, tmp_path, monkeypatch):
    assert hub.local_folder(bert) == bert
    monkeypatch.chdir(tmp_path)
    assert hub.local_folder("bert") == Path("bert")
    with pytest.raises(InputError, match="local folder and has no revision 'main'"):
        hub.local_folder(bert, "main")
    for source, message in (
        (bert / "config.json", "is a file"),
        ("./absent", "no such folder"),
        ("~/absent/x", "no such folder"),
        ("a/b/c", "no such folder"),
        ("no model", "no such folder"),
        ("", "expected a model"),
    ):
        with pytest.raises(InputError, match=message):
            hub.local_folder(source)
