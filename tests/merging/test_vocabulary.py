"""Models that differ in their vocabulary or in their head: refused, or resolved where that is safe."""

from __future__ import annotations

import json

import pytest
import torch
from tests.merging.models import moved

from pairtune.errors import BaseMismatch
from pairtune.merging.engine.run import merge
from pairtune.pair.checkpoint import Checkpoint
from pairtune.pair.files import read_json, write_json, write_safetensors

EMBEDDING = "model.embed_tokens.weight"


def grown(base, folder, seed, words):
    """A moved model whose tokenizer and embedding have further words at their end."""
    moved(base, folder, seed)
    tokenizer = read_json(folder / "tokenizer.json")
    first = max(max(tokenizer["model"]["vocab"].values()), max(t["id"] for t in tokenizer["added_tokens"])) + 1
    tokenizer["model"]["vocab"] |= {word: first + i for i, word in enumerate(words)}
    write_json(folder / "tokenizer.json", tokenizer)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"vocab_size": first + len(words)})
    tensors = {name: tensor.clone() for name, tensor in Checkpoint(folder).items()}
    new = torch.randn(len(words), 16, generator=torch.Generator().manual_seed(seed))
    tensors[EMBEDDING] = torch.cat([tensors[EMBEDDING], new])
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def test_added_tokens_are_refused_and_kept_where_allowed(tiny_llama, tmp_path):
    models = [grown(tiny_llama, tmp_path / "a", 1, ["uno", "due"]), moved(tiny_llama, tmp_path / "b", 2)]
    with pytest.raises(BaseMismatch, match=r"tokens, .* --allow-vocabulary-growth"):
        merge(models, tmp_path / "out", "task-arithmetic", base=tiny_llama)
    given = [0.5, 0.25]
    done = merge(
        models, tmp_path / "out", "task-arithmetic", weights=given, base=tiny_llama, allow_vocabulary_growth=True
    )
    assert done.card["check"]["prompts"] == 4
    base, one, two = (Checkpoint(folder)[EMBEDDING] for folder in (tiny_llama, *models))
    rows = len(base)
    found = Checkpoint(tmp_path / "out")[EMBEDDING]
    expected = base + 0.5 * (one[:rows] - base) + 0.25 * (two - base)
    assert torch.allclose(found[:rows], expected, atol=1e-6)
    assert torch.equal(found[rows:], one[rows:])  # only this model has them
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == rows + 2
    assert "due" in read_json(tmp_path / "out" / "tokenizer.json")["model"]["vocab"]


def test_tokens_of_two_models_are_averaged_where_both_have_them(tiny_llama, tmp_path):
    models = [
        grown(tiny_llama, tmp_path / "a", 1, ["uno", "due", "tre"]),
        grown(tiny_llama, tmp_path / "b", 2, ["uno"]),
    ]
    merge(models, tmp_path / "out", "linear", weights=[3, 1], base=tiny_llama, allow_vocabulary_growth=True)
    one, two = (Checkpoint(folder)[EMBEDDING] for folder in models)
    rows = len(Checkpoint(tiny_llama)[EMBEDDING])
    found = Checkpoint(tmp_path / "out")[EMBEDDING]
    assert torch.allclose(found[rows], 0.75 * one[rows] + 0.25 * two[rows], atol=1e-6)
    assert torch.equal(found[rows + 1 :], one[rows + 1 :])


def test_other_vocabularies_are_refused_by_the_first_token(tiny_llama, tmp_path):
    models = [grown(tiny_llama, tmp_path / "a", 1, ["uno"]), grown(tiny_llama, tmp_path / "b", 2, ["eins"])]
    with pytest.raises(BaseMismatch, match=r"the token '(uno|eins)' has the id"):
        merge(models, tmp_path / "out", "linear", base=tiny_llama, allow_vocabulary_growth=True)


def test_an_untied_head_makes_the_result_untied(tiny_llama, tmp_path):
    from transformers import AutoModelForCausalLM

    models = [moved(tiny_llama, tmp_path / name, seed) for seed, name in enumerate("ab")]
    tensors = {name: tensor.clone() for name, tensor in Checkpoint(models[1]).items()}
    head = torch.randn(tensors[EMBEDDING].shape, generator=torch.Generator().manual_seed(0))
    write_safetensors(models[1] / "model.safetensors", tensors | {"lm_head.weight": head})
    write_json(models[1] / "config.json", read_json(models[1] / "config.json") | {"tie_word_embeddings": False})
    merge(models, tmp_path / "out")
    found = Checkpoint(tmp_path / "out")
    tied = Checkpoint(models[0])[EMBEDDING]
    assert torch.allclose(found["lm_head.weight"], (tied + head) / 2, atol=1e-6)
    assert torch.allclose(found[EMBEDDING], (tied + tensors[EMBEDDING]) / 2, atol=1e-6)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.lm_head.weight, found["lm_head.weight"])


def test_a_head_that_is_stored_twice_stays_tied(tiny_llama, tmp_path):
    models = [moved(tiny_llama, tmp_path / name, seed) for seed, name in enumerate("ab")]
    tensors = {name: tensor.clone() for name, tensor in Checkpoint(models[1]).items()}
    write_safetensors(models[1] / "model.safetensors", tensors | {"lm_head.weight": tensors[EMBEDDING].clone()})
    merge(models, tmp_path / "out")
    assert "lm_head.weight" not in Checkpoint(tmp_path / "out")


def test_two_deltas_on_other_bases_are_refused(tiny_llama, tmp_path):
    from pairtune.merging.inputs.sources import Source
    from pairtune.merging.outputs.as_delta import base_record

    model = moved(tiny_llama, tmp_path / "model", 1)
    merge([model], tmp_path / "delta", "passthrough", base=tiny_llama, to="delta", check=False)
    other = moved(tiny_llama, tmp_path / "other", 5)
    with pytest.raises(BaseMismatch, match=r"delta was made on .*, not on .*other: \S+ has other values"):
        merge([tmp_path / "delta"], tmp_path / "out", "task-arithmetic", base=other)
    assert base_record(Source(str(tiny_llama), tiny_llama, Checkpoint(tiny_llama))).fingerprint["weights"]
