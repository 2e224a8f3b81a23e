"""A pair's layers end to end: the loss that is watched, what is chosen on which rows, and weights that come back."""

import numpy as np
import pytest
import torch

import pairtune
from pairtune.analysis import layers as room
from pairtune.analysis import thinning
from pairtune.analysis.path import along, scored_splits
from pairtune.analysis.row_loss import RowLoss
from pairtune.analysis.sweep import ALPHAS, VALIDATION, best, gain, on_line, route, sweep
from pairtune.errors import MissingView
from pairtune.pair.line import line_of


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "ITERATIONS", 3)
        patch.setattr(room, "DRAWS", 2)
        patch.setattr(thinning, "KEPT", (0.1, 0.5))
        patch.setattr(thinning, "CONTROLS", 2)
        yield


@pytest.fixture(scope="module")
def asked(pair, task):
    """(route, parts, what was said along it, its layers), with the model as it was before."""
    way, before = route(pair), pair.base.checksum()
    variant = {name: p.detach().clone() for name, p in pair.trainable()}
    parts = {name: (task, rows) for name, rows in scored_splits(task).items()}
    said = along(pair, parts, ALPHAS, way.at)
    found = room.of_route(way, task, parts, said)
    assert pair.base.checksum() == before
    assert all(torch.equal(p, variant[name]) for name, p in pair.trainable())
    again = along(pair, {"test": parts["test"]}, [0.0, 1.0], way.at)["test"]["nll"]
    assert np.array_equal(again, said["test"]["nll"][[0, -1]])
    return way, parts, said, found


def test_the_loss_is_that_of_the_label_given_the_text(pair, task):
    rows = task.split("validation").select([0, 1, 3])
    loss = RowLoss.of(pair, task, rows)
    expected, count = 0.0, 0
    for row in rows:
        text = pair.tokenizer(row["text"]).input_ids
        whole = [*pair.tokenizer(f"{row['text']}\n{row['label']}").input_ids, pair.tokenizer.eos_token_id]
        with torch.no_grad():
            log_p = pair.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        expected -= sum(float(log_p[i - 1, whole[i]]) for i in range(len(text), len(whole)))
        count += len(whole) - len(text)
    assert loss.mean() == pytest.approx(expected / count, abs=1e-5)
    assert RowLoss(pair, loss.objective, loss.batches, normal=True).mean() != pytest.approx(loss.mean(), abs=1e-3)


def test_on_an_encoder_it_is_the_heads_loss(tiny_bert, folder, task):
    training = {"lr": 0.005, "max_steps": 4}
    pair = pairtune.tune({"base": str(tiny_bert), "data": str(folder), "tuner": "full", "training": training})
    alone = pairtune.evaluate(pair, task, ["test"]).metrics["test"]["variant"]["nll"]
    assert RowLoss.of(pair, task, task.split("test")).mean() == pytest.approx(alone, abs=1e-5)


def test_every_half_of_every_block_is_asked(asked, pair):
    _, _, said, found = asked
    assert list(found.layers) == [f"{i} {half}" for i in range(4) for half in ("attention", "mlp")]
    assert set(found.whole) == {"0", f"{ALPHAS[best(said[VALIDATION], 'classification')]:g}", "1"}
    whole = found.whole["1"]
    assert whole.worst >= max(one.worst for one in found.layers.values()) * 0.5 > 0
    assert sum(one.weights for one in found.layers.values()) < sum(p.numel() for p in pair.base.parameters.values())
    lags = [one.lag for one in found.layers.values()]
    expected = [name for name, one in found.layers.items() if one.lag > np.mean(lags) + np.std(lags)]
    assert set(found.stragglers) == set(expected) == {name for name, one in found.layers.items() if one.straggler}


def test_thinning_is_picked_on_validation_and_judged_outside(pair, asked):
    way, parts, said, _ = asked
    line = line_of(pair)
    groups = {name: [one for one in line.start if f"layers.{name}." in one] for name in "0123"}
    tool = thinning.Thinning(way, "classification", parts, said, groups, line, lambda _: None)
    found = tool.of(["2"])
    thin = {keep: thinning.thinned(line, [groups["2"]], keep) for keep in thinning.KEPT}

    def asked_again(keep, split, alphas):
        return along(pair, {split: parts[split]}, alphas, lambda at: on_line(pair, thin[keep], at))[split]

    scores = {}
    for keep in thinning.KEPT:
        table = asked_again(keep, VALIDATION, ALPHAS)
        for i, alpha in enumerate(ALPHAS):
            scores[keep, alpha] = (-table["accuracy"][i].mean(), table["nll"][i].mean())
    assert min(scores, key=scores.__getitem__) == (found.keep, found.alpha)
    there = asked_again(found.keep, "ood/new", [found.alpha])["accuracy"][0]
    plain = said["ood/new"]["accuracy"]
    picked = best(said[VALIDATION], "classification")
    assert found.effect[0] == pytest.approx((there - plain[picked]).mean())
    assert found.gain == pytest.approx(gain([np.stack([plain[0], there, plain[-1]])], 1, True, ["ood/new"]).mean)
    others = tool.controls(["2"], found.keep)
    assert len(others) == 2 and all(one.layers[0] in "013" for one in others)
    assert {one.keep for one in others} == {found.keep}


def test_the_report_tells_of_the_layers(asked, pair, task, monkeypatch):
    monkeypatch.setattr(room, "of_route", lambda *_: asked[3])
    found = sweep(pair, task, layers=True)
    for words in ("Sharp layers and stragglers", "mirror", "3 mlp", "training split"):
        assert words in str(found)
    assert "Layer by layer" in found.html()


def test_side_networks_have_no_layers_to_compare(tiny_bert, folder, task):
    training = {"lr": 0.005, "max_steps": 2}
    pair = pairtune.tune({"base": str(tiny_bert), "data": str(folder), "tuner": "levi", "training": training})
    with pytest.raises(MissingView, match="levi"):
        sweep(pair, task, layers=True)
