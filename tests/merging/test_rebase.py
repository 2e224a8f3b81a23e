"""Moving a delta to another version of its base: exact where that can be, refused where there is no such version."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import save_file
from tests.conftest import make_tokenizer, save
from tests.merging.bases import changed, nudged, stored, task, tuned

from pairtune.errors import BaseMismatch, InputError
from pairtune.merging.rebase.merged import rebase_merged
from pairtune.merging.rebase.moving import moved
from pairtune.merging.rebase.pair import rebase
from pairtune.pair.export import export_merged
from pairtune.pair.pair import Pair

TUNERS = {"full": "full", "lora": {"name": "lora", "r": 2}, "dora": {"name": "lora", "r": 2, "dora": True}}


@pytest.fixture(scope="module")
def bases(tiny_llama, tmp_path_factory):
    """(old base, new base)"""
    return tiny_llama, nudged(tiny_llama, tmp_path_factory.mktemp("bases") / "new")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def pairs(bases, data, tmp_path_factory):
    place = tmp_path_factory.mktemp("pairs")
    return {name: tuned(bases[0], data, place / name, tuner) for name, tuner in TUNERS.items()}


def values(pair):
    return {name: p.detach().clone() for name, p in pair.base.model.named_parameters() if "lora" not in name}


def expected(variant, old, new):
    """The paper's equation in float64, rounded once."""
    return (new.double() + (variant.double() - old.double())).to(variant.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_is_moved_in_float64_and_rounded_once(dtype):
    torch.manual_seed(0)
    old, new, step = (torch.randn(50, 40) * size for size in (1.0, 1.0, 1e-3))
    old, new = old.to(dtype), new.to(dtype)
    variant = (old.float() + step).to(dtype)
    assert torch.equal(moved(variant, old, new), expected(variant, old, new))
    assert torch.equal(moved(old, old, new), new)  # no change: the new base


def test_onto_the_same_numbers_no_bit_changes():
    old = torch.tensor([0.1, 3e8, -7.0, 1e-30, 0.0])
    variant = torch.tensor([1e-30, 2e-9, -7.0, 5.0, 1e-40])
    assert torch.equal(moved(variant, old, old.clone()), variant)
    assert (old.double() + (variant.double() - old.double())).float().ne(variant).any()  # what plain float64 would lose


def test_a_full_delta_moves_by_the_equation_and_stays_what_it_was(pairs, bases, tmp_path):
    old, new = (stored(folder) for folder in bases)
    source = Pair.load(pairs["full"])
    variant = values(source)
    pair = rebase(pairs["full"], bases[1])
    for name, value in values(pair).items():
        assert torch.equal(value, expected(variant[name], old[name], new[name])), name
    assert pair.model.lm_head.weight is pair.model.model.embed_tokens.weight  # tied: one tensor, moved once
    assert len(pair.delta) == len(source.delta)  # norms and embeddings, too
    with pair.off():
        assert all(torch.equal(value, new[name]) for name, value in values(pair).items())
    with pair.at(0.0):
        assert all(torch.equal(value, new[name]) for name, value in values(pair).items())
    card = pair.save(tmp_path / "moved")
    assert card.parents == [str(pairs["full"])]
    assert "rebase --onto" in card.notes[0]
    assert card.stack[0].tuner == {"name": "full"}
    again = Pair.load(tmp_path / "moved")
    assert again.base.source == str(bases[1])
    assert all(torch.equal(value, values(pair)[name]) for name, value in values(again).items())


def test_onto_its_own_base_a_pair_is_itself_bit_for_bit(pairs, bases):
    for name in TUNERS:
        source, pair = Pair.load(pairs[name]), rebase(pairs[name], bases[0])
        for tensor in source.delta:
            before = source.delta.apply(tensor, source.base.stored(tensor))
            assert torch.equal(pair.delta.apply(tensor, pair.base.stored(tensor)), before), (name, tensor)


def test_a_low_rank_delta_moves_as_its_factors(pairs, bases, tmp_path):
    source, pair = Pair.load(pairs["lora"]), rebase(pairs["lora"], bases[1])
    assert all(part.kind == "low-rank" for part in pair.delta.values())
    for name, part in source.delta.items():
        assert torch.equal(pair.delta[name].A, part.A) and torch.equal(pair.delta[name].B, part.B)
    pair.save(tmp_path / "moved")
    assert (tmp_path / "moved" / "adapter_config.json").exists()
    assert str(bases[1]) in (tmp_path / "moved" / "adapter_config.json").read_text()


def test_an_adapter_that_depends_on_its_base_moves_as_the_change_that_it_is(pairs, bases):
    source, pair = Pair.load(pairs["dora"]), rebase(pairs["dora"], bases[1])
    for name, part in source.delta.items():
        assert torch.equal(pair.delta[name].difference(), part.difference())
    new = stored(bases[1])
    name = next(iter(source.delta))
    assert torch.equal(values(pair)[name], source.delta.apply(name, new[name]))


def test_a_peft_folder_moves_without_its_base(pairs, bases, tmp_path, caplog):
    from pairtune.pair.export import export_adapter

    export_adapter(Pair.load(pairs["lora"]), tmp_path / "adapter")
    changed(tmp_path / "adapter", "adapter_config.json", base_model_name_or_path=str(tmp_path / "gone"))
    with caplog.at_level(logging.WARNING, "pairtune"):
        pair = rebase(tmp_path / "adapter", bases[1])
    assert "is not to be found" in caplog.text
    assert all(torch.equal(pair.delta[n].A, part.A) for n, part in Pair.load(pairs["lora"]).delta.items())


def test_a_checkpoint_moves_with_its_tokenizer_template_and_generation_settings(bases, tmp_path):
    old, new = bases
    new = changed(nudged(new, tmp_path / "new", seed=5, size=0.01), rope_theta=5e5, rope_parameters=None)
    tune = changed(nudged(old, tmp_path / "tune", seed=2, only="layers.1"), "generation_config.json", temperature=0.25)
    changed(tune, "tokenizer_config.json", chat_template="{{ messages }}")
    pair = rebase(tune, new, base=old)
    befores, afters, theirs = stored(old), stored(new), stored(tune)
    for name, value in values(pair).items():
        assert torch.equal(value, expected(theirs[name], befores[name], afters[name])), name
    assert all(".layers.1." in name for name in pair.delta)  # what tuning did not touch is not stored
    pair.save(tmp_path / "moved")
    export_merged(Pair.load(tmp_path / "moved"), tmp_path / "merged")
    assert "messages" in (tmp_path / "merged" / "chat_template.jinja").read_text()
    assert "0.25" in (tmp_path / "merged" / "generation_config.json").read_text()
    assert "500000" in (tmp_path / "merged" / "config.json").read_text()  # the new base's own


def test_added_rows_are_those_of_the_fine_tune(bases, tmp_path):
    old, new = bases
    tune = nudged(old, tmp_path / "tune", seed=3)
    weights = stored(tune)
    rows = torch.full((2, 16), 0.5)
    weights["model.embed_tokens.weight"] = torch.cat([weights["model.embed_tokens.weight"], rows])
    save_file(weights, tune / "model.safetensors", {"format": "pt"})
    changed(tune, vocab_size=len(weights["model.embed_tokens.weight"]))
    name = "model.embed_tokens.weight"
    pair = rebase(tune, new, base=old)
    count = len(stored(old)[name])
    value = pair.model.get_input_embeddings().weight.detach()
    assert torch.equal(value[count:], rows)
    assert torch.equal(value[:count], expected(weights[name][:count], stored(old)[name], stored(new)[name]))
    pair.save(tmp_path / "moved")
    assert len(Pair.load(tmp_path / "moved").model.get_input_embeddings().weight) == count + 2


def test_an_encoder_keeps_its_head_and_says_so(tiny_bert, data, tmp_path, caplog):
    new = nudged(tiny_bert, tmp_path / "new")
    for tuner, warns in (("full", False), ("head", True), ("levi", True)):
        source = tuned(tiny_bert, data, tmp_path / tuner, tuner)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "pairtune"):
            pair = rebase(source, new)
        assert ("is taken over as it is" in caplog.text) is warns
        before, after = Pair.load(source).top.installed.state(), pair.top.installed.state()
        heads = [name for name in before if "classifier" in name or "heads" in name]
        assert heads and all(torch.equal(before[name], after[name]) for name in heads)


def test_a_stack_moves_delta_by_delta(bases, data, tmp_path):
    stages = [{"tuner": "full"}, {"tuner": {"name": "lora", "r": 2}}]
    source = tuned(bases[0], data, tmp_path / "stack", stages=stages)
    pair = rebase(source, bases[1])
    assert [layer.record["tuner"]["name"] for layer in pair.layers] == ["full", "lora"]
    old, new, full = stored(bases[0]), stored(bases[1]), Pair.load(source).layers[0].delta()
    name = "model.layers.0.mlp.up_proj.weight"
    moved_full = pair.layers[0].delta()[name].value
    assert torch.equal(moved_full, expected(full[name].value, old[name], new[name]))


@pytest.mark.parametrize("name", ["full", "lora"])
def test_the_streamed_checkpoint_is_the_same_sum(pairs, bases, tmp_path, name):
    card = rebase_merged(pairs[name], bases[1], tmp_path / "merged").card
    assert card["onto"] == str(bases[1]) and "largest_difference" in card["check"]
    pair, found = rebase(pairs[name], bases[1]), stored(tmp_path / "merged")
    assert found.keys() == stored(bases[1]).keys()
    for tensor, value in values(pair).items():
        if name == "full":
            assert torch.equal(found[tensor], value), tensor
    for tensor, part in pair.delta.items():
        exact = stored(bases[1])[tensor].double() + part.difference(stored(bases[1])[tensor], torch.float64)
        assert torch.allclose(found[tensor].double(), exact, atol=1e-7), tensor
    rebase_merged(pairs[name], bases[1], tmp_path / "half", dtype="bfloat16")
    half = stored(tmp_path / "half")
    assert all(torch.equal(half[tensor], found[tensor].bfloat16()) for tensor in found)
    rebase_merged(pairs[name], bases[0], tmp_path / "same")
    export_merged(Pair.load(pairs[name]), tmp_path / "exported")
    same, exported = stored(tmp_path / "same"), stored(tmp_path / "exported")
    assert all(torch.allclose(same[key], exported[key], atol=0 if name == "full" else 1e-7) for key in same)


def test_a_streamed_checkpoint_grows_and_speaks_as_the_fine_tune(bases, tmp_path):
    old, new = bases
    tune, rows = nudged(old, tmp_path / "tune", seed=3), torch.full((2, 16), 0.5)
    weights, name = stored(tune), "model.embed_tokens.weight"
    weights[name] = torch.cat([weights[name], rows])
    save_file(weights, tune / "model.safetensors", {"format": "pt"})
    changed(changed(tune, vocab_size=len(weights[name])), "generation_config.json", temperature=0.25)
    new = changed(nudged(new, tmp_path / "new", seed=5), rope_theta=5e5, rope_parameters=None)
    rebase_merged(tune, new, tmp_path / "merged", base=old)
    found, count = stored(tmp_path / "merged"), len(stored(old)[name])
    assert torch.equal(found[name][count:], rows)
    assert torch.equal(found[name][:count], expected(weights[name][:count], stored(old)[name], stored(new)[name]))
    assert "0.25" in (tmp_path / "merged" / "generation_config.json").read_text()
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["vocab_size"] == count + 2 and config["rope_theta"] == 5e5
    with pytest.raises(InputError, match="--base"):
        rebase_merged(tune, new, tmp_path / "no")


def test_what_is_no_version_of_the_base_is_refused(pairs, bases, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    old, new = bases
    tokenizer = make_tokenizer()
    wide = LlamaConfig.from_pretrained(old, hidden_size=32)
    save(tmp_path / "wide", LlamaForCausalLM(wide), tokenizer)
    save(
        tmp_path / "gpt2",
        GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2)),
        tokenizer,
    )
    longer = LlamaConfig.from_pretrained(old, vocab_size=len(tokenizer) + 8)
    save(tmp_path / "longer", LlamaForCausalLM(longer), tokenizer)
    heads = changed(nudged(new, tmp_path / "heads"), num_attention_heads=4, num_key_value_heads=2, head_dim=4)
    for name, part in (
        (tmp_path / "wide", "has the shape"),
        (tmp_path / "gpt2", "is only in"),
        (tmp_path / "longer", "rows of the vocabulary"),
        (heads, "num_attention_heads is 4"),
    ):
        with pytest.raises(BaseMismatch, match=part):
            rebase(pairs["full"], name)
    with pytest.raises(BaseMismatch, match="is not the base that this delta was made on"):
        rebase(pairs["full"], new, base=nudged(old, tmp_path / "other", seed=9))
    with pytest.raises(InputError, match="--base"):
        rebase(nudged(old, tmp_path / "tune"), new)


def test_token_ids_must_mean_the_same(pairs, bases, tmp_path):
    words = nudged(bases[1], tmp_path / "words")
    text = (words / "tokenizer.json").read_text()
    (words / "tokenizer.json").write_text(
        text.replace('"cat"', '"DOG"').replace('"dog"', '"cat"').replace("DOG", "dog")
    )
    with pytest.raises(BaseMismatch, match="token ids mean other things"):
        rebase(pairs["full"], words)


def test_a_pair_whose_base_is_gone_moves_only_if_it_can(data, bases, tmp_path):
    old = shutil.copytree(bases[0], tmp_path / "old")
    kept = {name: tuned(old, data, tmp_path / name, TUNERS[name]) for name in ("full", "lora")}
    shutil.rmtree(old)
    assert rebase(kept["lora"], bases[1]).delta
    with pytest.raises(InputError, match="the old base is needed"):
        rebase(kept["full"], bases[1])
    assert rebase(kept["full"], bases[1], base=bases[0]).delta
