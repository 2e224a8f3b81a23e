"""Masked language modelling end to end: what is hidden, the loss, the head, training and its continuation."""

import json
import shutil

import numpy as np
import pytest
import torch

from pairtune.data import Task
from pairtune.data.masking import Masker
from pairtune.errors import ConfigError, InputError
from pairtune.objectives.mlm import MaskedLanguageModel
from pairtune.pair.base import Base
from pairtune.pair.export import export_merged
from pairtune.pair.outputs import Outputs
from pairtune.pair.pair import Pair
from pairtune.training.config import Training
from pairtune.training.feeds import Feeds
from pairtune.training.run import tune

from ..conftest import WORDS, make_tokenizer, save

BATCH = {"input_ids": torch.tensor([[1, 8, 9, 60, 11]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}


@pytest.fixture(scope="module")
def masked_bert(tmp_path_factory):
    """An encoder stored with its masked-LM head, as published ones are: tied embeddings, a pooler beside it."""
    from transformers import BertConfig, BertForPreTraining

    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, initializer_range=0.2, **sizes)
    torch.manual_seed(0)
    return save(tmp_path_factory.mktemp("masked_bert"), BertForPreTraining(config), tokenizer)


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, count in (("train", 20), ("validation", 6)):
        rows = [{"text": " ".join(WORDS[i] for i in generator.integers(0, 6, 8))} for _ in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"source": str(folder), "kind": "lm", "text": "text"}


def config(base, text, out, **more):
    training = {"max_steps": 6, "lr": 5e-3, "batch_size": 4, **more.pop("training", {})}
    return {
        "base": str(base),
        "data": text,
        "device": "cpu",
        "out": str(out),
        "tuner": "full",
        "training": training,
        **more,
    }


def logits(pair):
    with torch.no_grad():
        return pair.forward(BATCH).logits


# -- what is hidden --------------------------------------------------------------------------------------------------


def rows(count=400, length=40):
    generator = np.random.default_rng(1)
    return [{"input_ids": [1, *generator.integers(5, 60, length).tolist(), 2], "index": i} for i in range(count)]


def test_the_shares_are_berts_and_special_tokens_are_never_hidden(masked_bert):
    tokenizer = Base.load(masked_bert).tokenizer
    masker = Masker(tokenizer, len(tokenizer), 0.15, seed=3)
    plain, hidden = rows(), masker(rows(), 0)
    before = np.array([row["input_ids"] for row in plain])
    after, labels = (np.array([row[key] for row in hidden]) for key in ("input_ids", "labels"))
    chosen = labels != -100
    assert not chosen[:, [0, -1]].any()
    assert np.array_equal(labels[chosen], before[chosen])
    assert np.array_equal(after[~chosen], before[~chosen])
    assert 0.14 < chosen[:, 1:-1].mean() < 0.16
    assert 0.78 < (after[chosen] == tokenizer.mask_token_id).mean() < 0.82
    same = (after[chosen] == before[chosen]).mean()
    assert 0.08 < same < 0.125  # left as they are, and the few that drew themselves
    drawn = after[chosen & (after != before) & (after != tokenizer.mask_token_id)]
    assert set(drawn.tolist()) <= set(range(len(tokenizer))) - set(tokenizer.all_special_ids)
    assert len(set(drawn.tolist())) > 40


def test_what_is_hidden_depends_on_seed_row_and_pass_alone(masked_bert):
    tokenizer = Base.load(masked_bert).tokenizer
    masker = Masker(tokenizer, len(tokenizer), 0.15, seed=3)
    together = masker(rows(20), 2)
    assert together == [masker([row], 2)[0] for row in rows(20)] == masker(rows(20)[::-1], 2)[::-1]
    assert together != masker(rows(20), 1)
    assert together != Masker(tokenizer, len(tokenizer), 0.15, seed=4)(rows(20), 2)
    short = [{"input_ids": [1, 9, 2], "index": i} for i in range(50)]
    assert all([label >= 0 for label in row["labels"]] == [False, True, False] for row in masker(short, 0))
    assert masker([{"input_ids": [1, 2], "index": 0}], 0)[0]["labels"] == [-100, -100]


# -- head and loss ---------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_transformers_summed(masked_bert):
    base = Base.load(masked_bert, task="lm")
    labels = torch.tensor([[-100, 8, -100, 12, -100], [-100, -100, 30, -100, -100]])
    batch = {"input_ids": torch.tensor([[1, 8, 9, 60, 11], [1, 5, 6, 7, 8]]), "labels": labels}
    raw = base.model(**batch)
    objective = MaskedLanguageModel()
    found = objective.loss(None, batch, Outputs.of(raw))  # type: ignore[arg-type]
    assert found.units == objective.units(batch) == 3
    assert found.total.item() == pytest.approx(3 * raw.loss.item(), rel=1e-5)


def test_the_stored_head_is_loaded_and_its_output_matrix_is_no_parameter(masked_bert):
    base = Base.load(masked_bert, task="lm")
    assert not base.new_names and base.view == "masked"
    with torch.no_grad():
        from transformers import BertForMaskedLM

        alone = BertForMaskedLM.from_pretrained(masked_bert).eval()(**BATCH).logits
        assert torch.equal(base.model(**BATCH).logits, alone)
    decoder = base.model.get_output_embeddings()
    embeddings = base.model.get_input_embeddings().weight
    assert decoder.weight.data_ptr() == embeddings.data_ptr()
    assert "weight" not in decoder._parameters and not any("decoder.weight" in name for name in base.parameters)
    # Under another head, or none, it is the same base.
    other = Base.load(masked_bert, task="classification", labels=["a", "b"])
    assert base.fingerprint.weights == other.fingerprint.weights
    assert "masked" in Pair(base).views and not Pair(base).views & {"tokens", "labels"}


def test_a_bare_encoder_gets_a_new_head_that_belongs_to_the_delta(masked_bert, text, tmp_path):
    from transformers import BertModel

    bare = tmp_path / "bare"
    save(bare, BertModel.from_pretrained(masked_bert), Base.load(masked_bert).tokenizer)
    pair = tune(config(bare, text, tmp_path / "out"))
    assert pair.base.new_names and all(name.startswith("cls.") for name in pair.base.new_names)
    new = {name for name in pair.base.new_names if name not in pair.base.names.tied}
    assert {name for name, part in pair.delta.items() if part.kind == "module"} == new
    assert torch.equal(logits(Pair.load(tmp_path / "out")), logits(pair))


# -- training --------------------------------------------------------------------------------------------------------


def test_it_learns_what_is_said_and_the_output_stays_the_bases(masked_bert, text, tmp_path):
    settings = {"max_steps": 60, "eval_every": 20, "lr": 1e-2, "log_every": 10}
    pair = tune(config(masked_bert, text, tmp_path / "out", training=settings))
    first, last = pair.top.record["training"]["losses"]
    assert last < 0.7 * first  # six words of sixty are left
    embeddings = pair.base.model.get_input_embeddings().weight
    start = pair.base.parameters["bert.embeddings.word_embeddings.weight"]
    assert not torch.equal(embeddings, start)
    assert torch.equal(pair.base.model.get_output_embeddings().weight, start)
    loaded = Pair.load(tmp_path / "out")
    assert torch.equal(logits(loaded), logits(pair))
    with loaded.off():
        assert torch.equal(logits(loaded), logits(Pair(Base.load(masked_bert, task="lm"))))
    export_merged(loaded, tmp_path / "merged")
    assert torch.allclose(logits(Pair(Base.load(tmp_path / "merged", task="lm"))), logits(pair), atol=1e-5)


def test_every_pass_hides_other_tokens_and_validation_always_the_same(masked_bert, text, tmp_path, monkeypatch):
    seen = []
    hide = Masker.__call__

    def look(self, features, visit):
        found = hide(self, features, visit)
        seen.append((visit, [(row["index"], tuple(row["labels"])) for row in found]))
        return found

    monkeypatch.setattr(Masker, "__call__", look)
    tune(config(masked_bert, text, tmp_path / "out", training={"max_steps": None, "epochs": 3, "eval_every": 5}))
    by_visit = {visit: dict(row for v, rows in seen if v == visit for row in rows) for visit in (1, 2)}
    assert by_visit[1].keys() == by_visit[2].keys() == set(range(20))
    assert by_visit[1] != by_visit[2]
    base = Base.load(masked_bert, task="lm")
    feeds = Feeds.of(Task.load(**text), base, MaskedLanguageModel(), Training(batch_size=2), seed=1)
    first, second = ([batch["input_ids"].tolist() for batch in feeds.validation()] for _ in range(2))
    assert first == second


def test_a_run_that_stopped_within_a_pass_goes_on_bit_for_bit(masked_bert, text, tmp_path):
    run = config(masked_bert, text, tmp_path / "out", training={"max_steps": 9, "save_every": 3, "keep": 9})
    expected = {name: tensor.clone() for name, tensor in tune(run).top.installed.state().items()}
    shutil.rmtree(tmp_path / "out")
    for step in (6, 9):
        shutil.rmtree(tmp_path / "out.run" / f"checkpoint-{step}")
    again = tune(run, resume=True).top.installed.state()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.items())


@pytest.mark.parametrize("tuner", [{"name": "lora", "r": 2}, "bitfit", {"name": "sparse", "choose": "random"}])
def test_every_tuner_that_says_so_can_learn_it(tuner, masked_bert, text, tmp_path):
    pair = tune(config(masked_bert, text, tmp_path / "out", tuner=tuner))
    assert torch.equal(logits(Pair.load(tmp_path / "out")), logits(pair))


def test_what_cannot_be_learnt_so_is_refused_by_name(masked_bert, tiny_bert, text, tmp_path):
    with pytest.raises(InputError, match="has no mask token"):
        tune(config(tiny_bert, text, tmp_path / "out"))
    with pytest.raises(ConfigError, match="no objective fits a task of kind lm on encoder models"):
        tune(config(masked_bert, text, tmp_path / "out", tuner="levi"))
    folder = tmp_path / "pairs"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(json.dumps({"text": f"a {i}", "then": "b"}) for i in range(20)))
    completions = {"source": str(folder), "kind": "lm", "text": "text", "label": "then"}
    with pytest.raises(InputError, match="cannot be learnt by an encoder"):
        tune(config(masked_bert, completions, tmp_path / "out"))
