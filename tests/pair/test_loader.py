"""What people have becomes a pair; what does not fit is refused in one sentence before anything is built."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pairtune.errors import BaseMismatch, DeltaMismatch, FormatError, InputError
from pairtune.pair.base import Base
from pairtune.pair.pair import Pair


def changed_copy(folder, target, change):
    """A checkpoint folder with `change(tensors)` applied to its stored tensors."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


def nudge(tensors):
    tensors["model.layers.2.mlp.up_proj.weight"] += 0.05


@pytest.fixture
def finetuned(tiny_llama, tmp_path):
    return changed_copy(tiny_llama, tmp_path / "finetuned", nudge)


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(4, 14).view(2, 5)).logits


def test_two_checkpoints_make_a_pair(tiny_llama, finetuned):
    pair = Pair.from_checkpoints(str(tiny_llama), finetuned)
    assert list(pair.delta) == ["model.layers.2.mlp.up_proj.weight"]
    assert torch.equal(logits(pair.model), logits(Base.load(finetuned).model))
    with pair.off():
        assert torch.equal(logits(pair.model), logits(Base.load(tiny_llama).model))
    assert pair.top.installed.first_changed() == 2


def test_a_saved_pair_loads_bit_for_bit(tiny_llama, finetuned, tmp_path):
    pair = Pair.from_checkpoints(str(tiny_llama), finetuned)
    pair.save(tmp_path / "pair")
    again = Pair.load(tmp_path / "pair")
    assert torch.equal(logits(again.model), logits(pair.model))
    assert "base_model" in (tmp_path / "pair" / "README.md").read_text()
    assert (tmp_path / "pair" / "delta.safetensors").stat().st_size < (
        finetuned / "model.safetensors"
    ).stat().st_size / 4


def test_another_base_of_the_same_shape_names_the_first_differing_tensor(tiny_llama, finetuned, tmp_path):
    Pair.from_checkpoints(str(tiny_llama), finetuned).save(tmp_path / "pair")

    def change(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"] *= 1.01

    other = changed_copy(tiny_llama, tmp_path / "other", change)
    with pytest.raises(BaseMismatch, match=r"layers\.1\.mlp\.up_proj\.weight has other values"):
        Pair.load(tmp_path / "pair", str(other))
    onto = Pair.load(tmp_path / "pair", str(other), onto=True)
    assert any("applied onto" in note for note in onto.card.notes)


def test_another_base_of_another_shape_is_refused(tiny_llama, tiny_bert, finetuned, tmp_path):
    Pair.from_checkpoints(str(tiny_llama), finetuned).save(tmp_path / "pair")

    def widen(tensors):
        tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(33, 16)

    with pytest.raises((BaseMismatch, FormatError)):
        Pair.load(tmp_path / "pair", str(changed_copy(tiny_llama, tmp_path / "wide", widen)))
    with pytest.raises(BaseMismatch):
        Pair.load(tmp_path / "pair", str(tiny_bert))
    with pytest.raises(BaseMismatch, match="shape"):
        Pair.from_checkpoints(Base.load(tiny_llama), tmp_path / "wide")


def test_missing_unexpected_and_equal_checkpoints_are_refused(tiny_llama, tmp_path):
    base = Base.load(tiny_llama)
    missing = changed_copy(tiny_llama, tmp_path / "missing", lambda t: t.pop("model.norm.weight"))
    with pytest.raises(BaseMismatch, match=r"model\.norm\.weight"):
        Pair.from_checkpoints(base, missing)
    extra = changed_copy(tiny_llama, tmp_path / "extra", lambda t: t.update({"model.surplus": torch.ones(2)}))
    with pytest.raises(BaseMismatch, match="surplus"):
        Pair.from_checkpoints(base, extra)
    same = changed_copy(tiny_llama, tmp_path / "same", lambda t: None)
    with pytest.raises(DeltaMismatch, match="no delta"):
        Pair.from_checkpoints(base, same)


def test_nan_in_a_checkpoint_or_a_delta_is_refused_by_name(tiny_llama, finetuned, tmp_path):
    def poison(tensors):
        tensors["model.layers.3.mlp.up_proj.weight"][1, 2] = float("nan")

    with pytest.raises((DeltaMismatch, FormatError), match=r"layers\.3\.mlp\.up_proj"):
        Pair.from_checkpoints(str(tiny_llama), changed_copy(tiny_llama, tmp_path / "nan", poison))
    with pytest.raises(FormatError, match=r"layers\.3\.mlp\.up_proj"):
        Base.load(tmp_path / "nan")


@pytest.mark.parametrize(
    ("name", "place", "named"),
    [("delta.safetensors", -1, r"tensor 'model\.layers\.2\.mlp\.up_proj\.weight"), ("pair.json", 40, r"pair\.json")],
)
def test_one_flipped_bit_is_refused_and_named(tiny_llama, finetuned, tmp_path, name, place, named):
    Pair.from_checkpoints(str(tiny_llama), finetuned).save(tmp_path / "pair")
    path = tmp_path / "pair" / name
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(FormatError, match=f"changed or damaged since it was saved: .*{named}"):
        Pair.load(tmp_path / "pair")


def test_added_tokens_are_rows_of_the_delta(tiny_llama, tmp_path, caplog):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pairtune.errors import MissingView

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    tokenizer.add_tokens(["<new>"])
    model.resize_token_embeddings(len(tokenizer))
    with torch.no_grad():
        model.model.embed_tokens.weight[-1] = 0.5
    model.save_pretrained(tmp_path / "grown")
    tokenizer.save_pretrained(tmp_path / "grown")
    pair = Pair.from_checkpoints(str(tiny_llama), tmp_path / "grown")
    assert "rows added" in caplog.text
    pair.save(tmp_path / "pair")
    again = Pair.load(tmp_path / "pair")
    ids = torch.tensor([[1, 5, len(tokenizer) - 1]])
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tmp_path / "grown")(input_ids=ids).logits
        assert torch.equal(again.model(input_ids=ids).logits, expected)
    assert len(again.tokenizer) == len(tokenizer)
    with pytest.raises(MissingView, match="tuning added"):
        again.log_ratio({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def test_a_tokenizer_with_other_ids_is_refused(tiny_llama, finetuned, tmp_path):
    text = (finetuned / "tokenizer.json").read_text()
    (finetuned / "tokenizer.json").write_text(text.replace('"cat"', '"kat"'))
    with pytest.raises(BaseMismatch, match="vocabulary"):
        Pair.from_checkpoints(str(tiny_llama), finetuned)


def test_a_folder_that_is_nothing_says_what_is_missing(tmp_path, tiny_llama):
    with pytest.raises(InputError):
        Pair.load(tmp_path)
    with pytest.raises(InputError, match="--base"):
        Pair.load(tiny_llama)
    with pytest.raises(InputError):
        Pair.load(tmp_path / "nowhere")


def test_a_classifier_checkpoint_over_a_bare_encoder(tiny_bert, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=3)
    with torch.no_grad():
        model.bert.encoder.layer[2].output.dense.weight += 0.1
    model.save_pretrained(tmp_path / "classifier")
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path / "classifier")
    pair = Pair.from_checkpoints(str(tiny_bert), tmp_path / "classifier")
    assert "labels" in pair.views
    assert torch.equal(logits(pair.model), logits(model.eval()))
    assert {part.kind for part in pair.delta.values()} == {"value", "module"}
