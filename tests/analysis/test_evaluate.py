"""Evaluation of base and variants: the same items, the right base side, honest gaps."""

import json

import numpy as np
import pytest
import torch

import pairtune
from pairtune.analysis.evaluate import BASE, evaluate
from pairtune.analysis.probe import NAME as PROBE
from pairtune.errors import BaseMismatch, InputError

CATS, DOGS = ["the cat sat on the mat", "a cat is in the house"], ["the dog ran by the river", "a dog is under a tree"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("pets")
    rows = [{"text": t, "label": "cat"} for t in CATS] + [{"text": t, "label": "dog"} for t in DOGS]
    for name, times in (("train", 6), ("validation", 1), ("test", 2)):
        (place / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows * times))
    (place / "ood").mkdir()
    (place / "ood" / "far.jsonl").write_text(json.dumps({"text": "please open the account"}))
    (place / "ood" / "new.jsonl").write_text("\n".join(json.dumps(row) for row in rows[1:3]))
    return place


def tuned(base, folder, tuner, lr, **more):
    config = {
        "base": str(base),
        "data": folder if isinstance(folder, dict) else str(folder),
        "tuner": tuner,
        "training": {"lr": lr, "epochs": 12},
    }
    return pairtune.tune(config | more)


def test_a_language_model_classifies_by_ranking(tiny_llama, folder):
    pair = tuned(tiny_llama, folder, "full", 0.01)
    found = evaluate(pair, pairtune.Task.load(folder))
    assert found.metrics["test"]["variant"]["accuracy"] == 1.0
    assert set(found.metrics["test"]) == {BASE, "variant"}
    assert found.items == {"test": 8, "ood/new": 2}
    assert "no" in found.skipped["ood/far"]
    difference = found.differences["test"]["variant"]["accuracy"]
    gap = found.metrics["test"]["variant"]["accuracy"] - found.metrics["test"][BASE]["accuracy"]
    assert difference.mean == pytest.approx(gap)
    assert len(difference.fixed or []) == round(8 * gap)


def test_a_new_head_is_compared_with_a_probe(tiny_bert, folder):
    pair = tuned(tiny_bert, folder, "full", 0.005)
    found = evaluate(pair, pairtune.Task.load(folder))
    assert set(found.metrics["test"]) == {PROBE, "variant"}
    assert found.metrics["test"][PROBE]["accuracy"] == 1.0


def test_several_variants_on_one_base_and_never_on_two(tiny_llama, tiny_t5, folder):
    one, two = tuned(tiny_llama, folder, "full", 0.01), tuned(tiny_llama, folder, "lora", 0.01)
    found = evaluate({"one": one, "two": two}, pairtune.Task.load(folder), ["test"])
    assert set(found.metrics["test"]) == {BASE, "one", "two"}
    other = pairtune.Pair(pairtune.Base.load(tiny_t5))
    with pytest.raises(BaseMismatch, match="another base"):
        evaluate({"one": one, "other": other}, pairtune.Task.load(folder))
    with pytest.raises(InputError, match="tset"):
        evaluate(one, pairtune.Task.load(folder), ["tset"])


def test_texts_are_generated_and_scored(tiny_t5, tiny_llama, tmp_path):
    rows = [{"text": "the cat", "target": "sat on the mat"}, {"text": "the dog", "target": "ran"}]
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows * 4))
    data = {"source": str(tmp_path), "kind": "seq2seq", "text": "text", "label": "target"}
    task = pairtune.Task.load(data)
    for base in (tiny_t5, tiny_llama):
        pair = tuned(base, data, "full", 0.01)
        found = evaluate(pair, task, ["test"], generate=True)
        values = found.metrics["test"]["variant"]
        assert values["loss"] < found.metrics["test"][BASE]["loss"]
        assert 0 <= values["exact_match"] <= 1 and 0 <= values["chrf"] <= 1


def test_token_losses_are_the_models_own(tiny_llama, tmp_path):
    from pairtune.analysis import predict

    texts = ["the cat sat", "who is the old man ?", "yes"]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    pair = pairtune.Pair(pairtune.Base.load(tiny_llama))
    task = pairtune.Task.load(tmp_path, kind="lm")
    losses, counts = predict.token_losses(predict.Reader(pair, task), task.split("test"))
    for text, loss, count in zip(texts, losses, counts, strict=True):
        ids = torch.tensor([[*pair.tokenizer(text).input_ids, pair.tokenizer.eos_token_id]])
        with torch.no_grad():
            expected = pair.model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        assert loss == pytest.approx(expected, abs=1e-4)
        assert count == ids.shape[1] - 1
    assert np.isfinite(losses).all()
