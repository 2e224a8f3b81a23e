"""The whole comparison: known answers of each section, gaps by name, and the three faces of the report."""

import numpy as np
import pytest
import torch
from tests.analysis.pets import GENERAL_TEXTS, HOSTILE, ROWS, write_splits

import pairtune
from pairtune.analysis import flips, forgetting, path
from pairtune.analysis.answers import BASE, gather, spread
from pairtune.analysis.path import ALPHAS, GENERAL, point
from pairtune.analysis.probe import NAME as PROBE
from pairtune.data.split import Split
from pairtune.errors import BaseMismatch, DataError, InputError


def test_every_section_is_there_and_agrees_with_evaluate(found, pair, task):
    alone = pairtune.evaluate(pair, task)
    assert found.behaviour.metrics == alone.metrics
    assert found.behaviour.differences == alone.differences
    assert "no" in found.behaviour.skipped["ood/far"]
    names = [section.name for section in found.document().sections]
    assert names == ["weights", "behaviour", "calibration", "flips", "forgetting", "tokens", "path"]


def test_weights_are_the_deltas_norms_by_layer(found, pair):
    norms, moved = pair.delta.norms(), found.weights.variants["variant"]
    assert moved.total.norm == pytest.approx(norms.total.absolute)
    assert {name: layer.relative for name, layer in moved.layers.items()} == {
        name: norm.relative for name, norm in norms.layers.items()
    }
    name = "model.layers.0.mlp.up_proj.weight"
    exact = torch.linalg.svdvals(pair.delta.difference(name).double())
    assert moved.tensors[name].spectrum.values == pytest.approx(exact.tolist(), rel=1e-4)
    assert 0 < moved.total.changed <= 1


def test_the_path_begins_at_the_base_and_ends_at_the_variant(pair, task, found):
    ids = torch.tensor([[1, 5, 6, 7]])
    with torch.no_grad():
        variant = pair.model(input_ids=ids).logits
        with pair.off():
            base = pair.model(input_ids=ids).logits
        with point(pair, 0.0):
            assert torch.equal(pair.model(input_ids=ids).logits, base)
        with point(pair, 1.0):
            assert torch.equal(pair.model(input_ids=ids).logits, variant)
        with point(pair, 0.5):
            middle = pair.model(input_ids=ids).logits
    assert not torch.equal(middle, base) and not torch.equal(middle, variant)
    curves = found.path.curves["variant"]
    assert set(curves) == {"validation", "test", "ood/new", GENERAL}
    for split in ("test", "ood/new"):
        metrics = found.behaviour.metrics[split]
        assert curves[split].values[0] == pytest.approx(metrics[BASE]["accuracy"])
        assert curves[split].values[ALPHAS.index(1.0)] == pytest.approx(metrics["variant"]["accuracy"])


def test_known_ends_change_no_curve(pair, task):
    part = {"test": (task, task.split("test"))}
    plainly = path.curves(pair, part)["test"]
    answers = gather({"variant": pair}, task, ["test"]).splits["test"].sides
    known = {("test", 0.0): answers[BASE].items, ("test", 1.0): answers["variant"].items}
    assert path.curves(pair, part, known=known)["test"] == plainly


def test_flips_are_the_rows_that_evaluate_counts(found, pair, task):
    change = found.behaviour.differences["test"]["variant"]["accuracy"]
    one = found.flips.variants["variant"]["test"]
    assert sorted(flip.row for flip in one.better) == change.fixed
    assert sorted(flip.row for flip in one.worse) == change.broken
    assert change.fixed, "the untuned base must be wrong somewhere for this test to say anything"
    rows = task.split("test")
    for flip in one.better:
        assert flip.text == rows[flip.row]["text"]
        assert flip.truth == rows[flip.row]["label"]
        assert flip.after.startswith(flip.truth) and not flip.before.startswith(flip.truth)
        assert flip.where == rows.where(flip.row)
    gains = [flip.change for flip in one.better]
    assert gains == sorted(gains, reverse=True)


def test_forgetting_is_the_models_own_loss(found, pair):
    expected = []
    for text in GENERAL_TEXTS:
        ids = torch.tensor([[*pair.tokenizer(text).input_ids, pair.tokenizer.eos_token_id]])
        with torch.no_grad():
            expected.append(pair.model(input_ids=ids, labels=ids).loss.item())
    general = found.forgetting.general
    assert general.losses["variant"] == pytest.approx(np.mean(expected), abs=1e-4)
    assert general.changes["variant"].mean == pytest.approx(general.losses["variant"] - general.losses[BASE])
    one = found.forgetting.kept["test"]["variant"]
    difference = found.behaviour.differences["test"]["variant"]["accuracy"]
    assert one.had == round(found.behaviour.metrics["test"][BASE]["accuracy"] * 10)
    assert one.had - one.kept == len(difference.broken)


def test_token_ratios_are_those_of_the_pair(found, pair, task):
    shown = found.tokens.variants["variant"]
    assert shown.most[0].mean >= shown.most[-1].mean > shown.least[0].mean
    text = next(one for one in shown.most + shown.least if HOSTILE.split()[-1] in one.tokens[-1][0])
    words = "".join(token for token, _ in text.tokens).split()
    assert words[-3:] == ["the", "cat", "sat"]
    count, mean = shown.splits["test"]
    ids = [pair.tokenizer(row["text"]).input_ids for row in task.split("test")]
    every = []
    for row in ids:
        batch = {"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.long)}
        ratio = pair.log_ratio(batch)
        every += ratio.values[ratio.mask].tolist()
    assert count == len(ids)
    assert mean == pytest.approx(np.mean(every), abs=1e-5)


def test_calibration_agrees_with_the_metrics(found):
    for split, models in found.calibration.models.items():
        for model, one in models.items():
            assert one.ece == pytest.approx(found.behaviour.metrics[split][model]["ece"])
            assert sum(count for *_, count in one.bins) == found.behaviour.items[split]


def test_several_variants_stand_side_by_side(pair, tiny_llama, folder, task, tiny_t5):
    lora = pairtune.tune(
        {"base": str(tiny_llama), "data": str(folder), "tuner": "lora", "training": {"lr": 0.01, "epochs": 5}}
    )
    both = pairtune.diff({"one": pair, "two": lora}, task, general=GENERAL_TEXTS)
    assert set(both.behaviour.metrics["test"]) == {BASE, "one", "two"}
    assert set(both.path.curves) == {"one", "two"}
    assert both.weights.variants["two"].tensors["model.layers.0.self_attn.q_proj.weight"].kind == "low-rank"
    assert both.weights.variants["two"].total.changed is None
    assert "unchanged" in str(both)
    assert all(figure.label.endswith(", one") for figure in both.document().figures)
    other = pairtune.Pair(pairtune.Base.load(tiny_t5))
    with pytest.raises(BaseMismatch, match="another base"):
        pairtune.diff({"one": pair, "other": other}, task)


def test_without_data_the_weights_and_general_text_remain(pair):
    alone = pairtune.diff(pair, general=GENERAL_TEXTS)
    assert alone.behaviour is None and alone.flips is None
    assert [section.name for section in alone.document().sections] == ["weights", "forgetting", "tokens", "path"]
    assert set(alone.path.curves["variant"]) == {GENERAL}
    assert "none given" in str(alone)


def test_an_encoder_says_what_it_lacks(tiny_bert, folder, task):
    training = {"lr": 0.005, "epochs": 4}
    pair = pairtune.tune({"base": str(tiny_bert), "data": str(folder), "tuner": "full", "training": training})
    found = pairtune.diff(pair, task)
    assert set(found.behaviour.metrics["test"]) == {PROBE, "variant"}
    assert found.forgetting.general is None and "encoder" in found.forgetting.missing
    assert "head" in found.tokens.missing["variant"]
    assert "random head" in found.path.missing["variant"]
    assert found.weights.variants["variant"].own == ["classifier.bias", "classifier.weight"]
    assert PROBE in found.html()


def test_an_encoder_decoder_is_read_by_what_it_writes(tiny_t5, tmp_path):
    rows = [{"text": "the cat", "target": "sat on the mat"}, {"text": "the dog", "target": "ran by the river"}]
    write_splits(tmp_path, dict.fromkeys(("train", "validation", "test"), rows * 3))
    data = {"source": str(tmp_path), "kind": "seq2seq", "text": "text", "label": "target"}
    pair = pairtune.tune({"base": str(tiny_t5), "data": data, "tuner": "full", "training": {"lr": 0.01, "epochs": 4}})
    found = pairtune.diff(pair, pairtune.Task.load(data))
    assert "encoder-decoder" in found.forgetting.missing
    assert "seq2seq" in found.calibration.missing
    assert not found.flips.exact and found.flips.variants["variant"]["test"].better
    words = "".join(token for token, _ in found.tokens.variants["variant"].most[0].tokens)
    assert "mat" in words or "river" in words
    assert found.path.curves["variant"]["test"].metric == "nll"
    assert "Rows that moved most" in str(found)


def test_numbers_are_compared_by_their_errors(tiny_bert, tmp_path):
    rows = [{"text": text, "score": 0.5 + i} for i, (text, _) in enumerate(ROWS)]
    write_splits(tmp_path, dict.fromkeys(("train", "validation", "test"), rows * 3))
    pair = pairtune.tune({"base": str(tiny_bert), "data": str(tmp_path), "tuner": "full", "training": {"epochs": 2}})
    found = pairtune.diff(pair, pairtune.Task.load(tmp_path))
    assert found.flips.exact is False
    assert "regression" in found.calibration.missing
    assert "rmse" in str(found)


def test_samples_are_even_and_said(pair, task, monkeypatch):
    split = Split.of([{"n": i} for i in range(10)])
    assert [row["n"] for row in spread(split, 4)] == [0, 2, 5, 7]
    assert spread(split, None) is split
    from pairtune.analysis import diff as room

    monkeypatch.setattr(room, "ROWS", 4)
    small = pairtune.diff(pair, task, general=GENERAL_TEXTS)
    assert small.behaviour.items["test"] == 4
    assert "4 of 10 rows" in str(small)
    assert pairtune.diff(pair, task, general=GENERAL_TEXTS, everything=True).behaviour.items["test"] == 10


def test_general_text_comes_from_files_and_the_package(tmp_path):
    shipped = forgetting.general_task()
    kinds = list(shipped.split("test").values("kind"))
    assert len(kinds) == 150 and set(kinds) == {"story", "encyclopaedic", "dialogue", "how-to", "news-like"}
    lines = tmp_path / "lines.txt"
    lines.write_text("one line\n\nanother line\n")
    assert len(forgetting.general_task(lines).split("test")) == 2
    with pytest.raises(InputError, match="no file"):
        forgetting.general_task(tmp_path / "none.txt")
    with pytest.raises(InputError, match="general"):
        forgetting.general_task("demo:genral")
    numbers = tmp_path / "numbers.jsonl"
    numbers.write_text('{"text": "fine"}\n{"text": 5}\n')
    with pytest.raises(DataError, match="line 2"):
        forgetting.general_task(numbers)


def test_a_head_of_another_size_is_refused(tiny_bert, folder, tmp_path):
    training = {"epochs": 1}
    pair = pairtune.tune({"base": str(tiny_bert), "data": str(folder), "tuner": "full", "training": training})
    rows = [{"text": text, "label": label} for text, label in [*ROWS, ("a bird sat", "bird")]]
    three = pairtune.Task.load(write_splits(tmp_path, {"train": rows * 3, "validation": rows, "test": rows}))
    with pytest.raises(InputError, match="3 labels, the model's head 2 outputs"):
        pairtune.diff(pair, three)


def test_flips_between_wrong_answers_are_counted(task):
    from pairtune.analysis.answers import Side, SplitAnswers

    wide = np.log(np.array([[0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]]))
    other = np.log(np.array([[0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.1, 0.7, 0.2]]))
    rows = Split.of([{"text": t, "label": "c"} for t in "xyz"])
    three = pairtune.Task("t", "classification", ("text",), "label", ["a", "b", "c"], {"test": rows})

    def side(outputs):
        right = (outputs.argmax(axis=1) == 2).astype(float)
        return Side(outputs, {}, {"accuracy": right, "nll": -outputs[:, 2]})

    one = flips._exact(three, SplitAnswers(rows, 3, {BASE: side(wide), "v": side(other)}, BASE), "v")
    assert (len(one.better), [flip.text for flip in one.worse], one.other) == (0, ["z"], 1)
    assert one.worse[0].before == "c (70%)" and one.worse[0].after == "b (70%)"


def test_the_last_step_is_the_last_that_was_announced(pair, task, caplog):
    with caplog.at_level("INFO", logger="pairtune"):
        pairtune.diff(pair, task, general=GENERAL_TEXTS)
    last = [record.getMessage() for record in caplog.records if record.getMessage().startswith("diff: ")][-1]
    done, total = last.removeprefix("diff: ").split(",")[0].split(" of ")
    assert done == total
