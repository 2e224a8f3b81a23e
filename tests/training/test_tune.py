"""`tune` from a configuration to a folder, on tiny models: the whole path."""

import json

import pytest
import torch

from pairtune.errors import ConfigError, InputError, PairtuneError, ResumeMismatch
from pairtune.pair.pair import Pair
from pairtune.training.run import tune

WORDS = {"money": "account", "card": "account", "printer": "house", "screen": "house", "child": "river", "dog": "river"}


@pytest.fixture
def data(tmp_path):
    """A small intent set that a tiny model can learn: one word decides."""
    folder = tmp_path / "data"
    folder.mkdir()
    fillers = "the a my please open close is was it with old new good bad".split()
    words = list(WORDS)

    def rows(count, shift):
        return [
            {
                "text": f"{fillers[(i + shift) % 14]} {fillers[(3 * i) % 14]} {words[i % 6]} {fillers[(i * i) % 14]}",
                "label": WORDS[words[i % 6]],
            }
            for i in range(count)
        ]

    for name, count, shift in (("train", 48, 0), ("validation", 12, 3), ("test", 12, 5)):
        lines = "\n".join(json.dumps(row) for row in rows(count, shift))
        (folder / f"{name}.jsonl").write_text(lines + "\n")
    return folder


def config(base, data, out=None, **more):
    training = {"max_steps": 6, "lr": 5e-3, "batch_size": 4, "log_every": 2, **more.pop("training", {})}
    out = {"out": str(out)} if out else {}
    return {"base": str(base), "data": str(data), "device": "cpu", "training": training, **out, **more}


def logits(pair, batch):
    with torch.no_grad():
        return pair.forward(batch).logits


BATCH = {"input_ids": torch.tensor([[1, 8, 9, 60, 11]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}


@pytest.mark.parametrize(
    ("family", "tuner"),
    [
        ("bert", "full"),
        ("bert", "head"),
        ("bert", {"name": "lora", "r": 4}),
        ("llama", "full"),
        ("llama", {"name": "lora", "r": 4}),
        ("llama", {"name": "peft:ia3"}),
        ("t5", {"name": "lora", "r": 4}),
    ],
)
def test_tune_saves_a_pair_that_loads_with_the_same_outputs(
    family, tuner, data, tmp_path, tiny_bert, tiny_llama, tiny_t5
):
    base = {"bert": tiny_bert, "llama": tiny_llama, "t5": tiny_t5}[family]
    pair = tune(config(base, data, tmp_path / "out", tuner=tuner))
    loaded = Pair.load(tmp_path / "out")
    batch = dict(BATCH)
    if family == "t5":
        batch["decoder_input_ids"] = torch.tensor([[0, 5, 6]])
    torch.testing.assert_close(logits(loaded, batch), logits(pair, batch), rtol=0, atol=1e-6)
    with pair.off():
        off = logits(pair, batch)
    assert not torch.allclose(off, logits(pair, batch))
    card = json.loads((tmp_path / "out" / "pair.json").read_text())
    record = card["stack"][0]
    assert record["training"]["steps"] == 6
    assert record["training"]["preflight"]["memory"]["total"] > 0
    assert record["objective"]["name"] == {"bert": "classification", "llama": "lm", "t5": "seq2seq"}[family]
    assert card["task"]["labels"] == ["account", "house", "river"]
    assert "validation loss" in card["metrics"]
    assert {p.name for p in tmp_path.iterdir()} == {"data", "out", "out.run"}


def test_a_tuned_classifier_has_learnt_and_the_best_validation_is_what_is_kept(tiny_bert, data, tmp_path):
    settings = {"max_steps": 150, "eval_every": 50, "lr": 1e-2, "batch_size": 8}
    pair = tune(config(tiny_bert, data, tmp_path / "out", tuner="full", training=settings, constraint={"l2sp": {}}))
    assert pair.card.metrics["validation accuracy"] > 0.8


def test_resume_after_the_fact_says_finished_and_other_ways_in_are_refused(tiny_bert, data, tmp_path):
    run = config(tiny_bert, data, tmp_path / "out", tuner={"name": "lora", "r": 2})
    first = tune(run)
    with pytest.raises(InputError, match="holds a finished pair"):
        tune(run)
    again = tune(run, resume=True)
    torch.testing.assert_close(logits(again, BATCH), logits(first, BATCH), rtol=0, atol=1e-6)
    replaced = tune(run, restart=True)
    assert torch.equal(logits(replaced, BATCH), logits(first, BATCH))  # the same seed


def test_an_unfinished_run_is_continued_bit_for_bit_and_never_overwritten_in_silence(tiny_llama, data, tmp_path):
    import shutil

    run = config(tiny_llama, data, tmp_path / "out", tuner={"name": "lora", "r": 4, "dropout": 0.2})
    run["training"] |= {"save_every": 2, "keep": 9, "accumulation": 3, "max_steps": 8}
    whole = tune(run)
    expected = whole.top.installed.state()
    shutil.rmtree(tmp_path / "out")
    for step in (4, 6, 8):
        shutil.rmtree(tmp_path / "out.run" / f"checkpoint-{step}")
    with pytest.raises(InputError, match=r"unfinished run \(at step 2\): --resume continues it"):
        tune(run)
    changed = {**run, "training": {**run["training"], "lr": 1e-3}}
    with pytest.raises(ResumeMismatch, match=r"settings\.training\.lr: 0\.005 → 0\.001"):
        tune(changed, resume=True)
    path = tmp_path / "data" / "train.jsonl"
    text = path.read_text()
    path.write_text(text.replace("printer", "screen", 1))
    with pytest.raises(ResumeMismatch, match="data: "):
        tune(run, resume=True)
    path.write_text(text)
    continued = tune(run, resume=True)
    assert all(torch.equal(t, expected[name]) for name, t in continued.top.installed.state().items())


def test_a_recipe_passes_the_pair_from_stage_to_stage_and_continues_after_a_finished_one(tiny_bert, data, tmp_path):
    import shutil

    stages = [{"name": "probe", "tuner": "head", "training": {"lr": 1e-2}}, {"name": "tune", "tuner": "full"}]
    run = config(tiny_bert, data, tmp_path / "out", stages=stages)
    pair = tune(run)
    assert [layer.record["tuner"]["name"] for layer in pair.layers] == ["head", "full"]
    expected = logits(pair, BATCH)
    loaded = Pair.load(tmp_path / "out")
    torch.testing.assert_close(logits(loaded, BATCH), expected, rtol=0, atol=1e-6)
    shutil.rmtree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out.run" / "stage-2")
    again = tune(run, resume=True)
    assert torch.equal(logits(again, BATCH), expected)


def test_impossible_combinations_are_refused_together_before_anything_loads(tiny_llama, tiny_bert, data, monkeypatch):
    from pairtune.pair.base import Base

    monkeypatch.setattr(Base, "load", lambda *_, **__: pytest.fail("the base was loaded"))
    with pytest.raises(ConfigError) as caught:
        tune(config(tiny_llama, data, stages=[{"tuner": "head"}, {"objective": "regression"}]))
    assert "stages.0.tuner: head serves encoder models, not causal" in str(caught.value)
    assert "stages.1.objective: objective regression serves regression tasks" in str(caught.value)
    with pytest.raises(ConfigError, match="objective lm serves causal models, the base is encoder"):
        tune(config(tiny_bert, data, objective="lm"))


def test_a_run_that_changes_nothing_is_an_error(tiny_bert, data):
    with pytest.raises(PairtuneError, match="tuning changed nothing"):
        tune(config(tiny_bert, data, tuner="full", training={"lr": 1e-30, "max_steps": 1}))


def test_an_output_folder_that_cannot_be_written_fails_before_the_base_is_loaded(
    tiny_bert, data, tmp_path, monkeypatch
):
    from pairtune.pair.base import Base

    monkeypatch.setattr(Base, "load", lambda *_, **__: pytest.fail("the base was loaded"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        tune(config(tiny_bert, data, tmp_path / "file" / "out"))


def test_packed_texts_are_tuned(tiny_llama, data, tmp_path):
    pair = tune(config(tiny_llama, data, tuner="full", training={"packing": True, "max_length": 32}))
    assert pair.card.metrics["validation loss"] > 0


def test_the_best_checkpoint_on_validation_is_what_is_saved_not_the_last(tiny_bert, data, tmp_path):
    from pairtune.pair.files import open_safetensors

    held = data / "validation.jsonl"
    labels = {"account": "house", "house": "river", "river": "account"}
    rows = [json.loads(line) for line in held.read_text().splitlines()]
    # Every validation label is wrong, so that validation gets worse as training gets better.
    held.write_text("\n".join(json.dumps({**row, "label": labels[row["label"]]}) for row in rows))
    settings = {"max_steps": 40, "eval_every": 5, "lr": 1e-2, "metric": "loss", "batch_size": 8, "keep": 1}
    pair = tune(config(tiny_bert, data, tmp_path / "out", tuner="full", training=settings))
    record = pair.top.record["training"]
    assert record["chosen_step"] < record["steps"] == 40
    stored = open_safetensors(tmp_path / "out.run" / f"checkpoint-{record['chosen_step']}" / "delta.safetensors")
    assert all(torch.equal(tensor, stored.tensor(name)) for name, tensor in pair.top.installed.state().items())
    loaded = logits(Pair.load(tmp_path / "out"), BATCH)
    assert torch.equal(loaded, logits(pair, BATCH))
    assert {p.name for p in (tmp_path / "out.run").glob("checkpoint-*")} == {
        f"checkpoint-{record['chosen_step']}",
        "checkpoint-40",
    }
