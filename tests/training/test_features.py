"""Tuners whose base never changes train from its cached activations, with the same result."""

import json

import pytest
import torch

from pairtune.pair.pair import Pair
from pairtune.training.run import tune


@pytest.fixture
def data(tmp_path):
    words = ["money", "printer", "dog", "card", "screen", "child"]
    labels = ["account", "house", "river"]
    for name, count in (("train", 24), ("validation", 7)):
        rows = [{"text": f"the {words[i % 6]} is {words[(i * 7) % 6]}", "label": labels[i % 3]} for i in range(count)]
        path = tmp_path / "data" / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "data"


def runs(base, data, tmp_path, tuner):
    """The run with a cache, and without."""
    training = {"epochs": 4, "lr": 5e-3, "batch_size": 4, "log_every": 1}
    result = {}
    for name, cache in (("cached", 1.0), ("plain", 0.0)):
        config = {"base": str(base), "data": str(data), "device": "cpu", "tuner": tuner, "out": str(tmp_path / name)}
        result[name] = tune({**config, "training": {**training, "cache_gb": cache}})
    return result


@pytest.mark.parametrize("tuner", ["head", "levi"])
def test_cached_and_plain_training_agree(tiny_bert, data, tmp_path, tuner, monkeypatch):
    from pairtune.tuners.cache import ActivationCache

    computed, asked = [], []
    plain = ActivationCache.features

    def counting(self, batch, compute):
        before = self.computed
        found = plain(self, batch, compute)
        asked.append(len(batch["index"]))
        computed.append(self.computed - before)
        return found

    monkeypatch.setattr(ActivationCache, "features", counting)
    pairs = runs(tiny_bert, data, tmp_path, tuner)
    cached, uncached = (pairs[name].top.installed.state() for name in ("cached", "plain"))
    for name, tensor in uncached.items():
        torch.testing.assert_close(cached[name], tensor, rtol=1e-4, atol=1e-5)
    for key, value in pairs["plain"].card.metrics.items():
        assert pairs["cached"].card.metrics[key] == pytest.approx(value, abs=1e-5)
    # 24 + 7 rows are computed once (a few more by the preflight); asked for four times.
    assert 31 <= sum(computed) <= 31 + 8
    assert sum(asked) >= 4 * 31
    loaded = Pair.load(tmp_path / "cached")
    loaded.model.eval()
    batch = {"input_ids": torch.tensor([[1, 8, 9]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    with torch.no_grad():
        expected = pairs["cached"].forward(batch).logits
        torch.testing.assert_close(loaded.forward(batch).logits, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tuner", ["levi", "ladder"])
def test_side_networks_on_a_language_model(tiny_llama, data, tmp_path, tuner):
    config = {"base": str(tiny_llama), "data": str(data), "device": "cpu", "tuner": tuner, "out": str(tmp_path / "out")}
    pair = tune({**config, "training": {"max_steps": 5, "lr": 1e-3, "batch_size": 4}})
    loaded = Pair.load(tmp_path / "out")
    loaded.model.eval()
    batch = {"input_ids": torch.tensor([[1, 8, 9]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    with torch.no_grad():
        expected = pair.forward(batch).logits
        torch.testing.assert_close(loaded.forward(batch).logits, expected, rtol=0, atol=1e-6)
