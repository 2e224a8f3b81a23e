"""LEVI's ablations and settings: one flag each, checked, reported."""

import pytest
import torch
from tests.tuners.test_levi import BATCH, install, layer_norm, load

from pairtune import registry
from pairtune.errors import ConfigError, InputError
from pairtune.tuners.levi import Levi, chosen_layers
from pairtune.tuners.levi_model import best_head, output_ensemble


def test_each_ablation_is_one_setting(tiny_bert):
    _, installed = install(tiny_bert, small="none")
    assert installed.model.small is None and len(installed.model(**BATCH).views) == 4
    _, installed = install(tiny_bert, layers="last")
    assert installed.model.layers == [3] and installed.features(BATCH)["pooled"].shape == (3, 1, 16)
    _, installed = install(tiny_bert, layers="none")
    assert "cacheable" not in installed.provides and installed.features(BATCH) == {}
    assert not any("from_base" in name for name, _ in installed.trainable())
    _, installed = install(tiny_bert, view="base")
    assert installed.model.small.embed.in_features == 16  # it reads hidden states, not ids
    _, one = install(tiny_bert, random_base=1)
    _, same = install(tiny_bert, random_base=1)
    _, other = install(tiny_bert, random_base=2)
    plain, random = install(tiny_bert)[1].features(BATCH)["pooled"], one.features(BATCH)["pooled"]
    assert not torch.allclose(plain, random, atol=1e-2)
    assert torch.equal(random, same.features(BATCH)["pooled"])
    assert not torch.equal(random, other.features(BATCH)["pooled"])
    one.off()
    assert torch.equal(one.features(BATCH)["pooled"], plain)
    assert torch.equal(output_ensemble([torch.zeros(2, 3), torch.ones(2, 3)]), torch.full((2, 3), 0.5))


def test_the_best_head_is_chosen_on_validation_and_kept(tiny_bert, tmp_path):
    _, installed = install(tiny_bert)
    with torch.no_grad():
        installed.model.heads.out_bias[3:6] = torch.tensor([9.0, 0.0, 0.0])
        installed.model.heads.out_bias[6:9] = torch.tensor([0.0, 0.0, 9.0])
    batches = [{**BATCH, "labels": torch.tensor([2, 2, 0])}]
    assert installed.choose_head(batches) == 2
    assert torch.equal(installed.model.eval()(**BATCH).logits, installed.model(**BATCH).views[2][0])
    installed.write(tmp_path)
    fresh = load(tiny_bert)
    assert Levi(small_width=8, hidden=6).restore(fresh, fresh.model, tmp_path).levi.chosen == 2
    assert best_head(torch.tensor([[[5.0], [1.1]], [[5.0], [2.2]]]), torch.tensor([1.0, 2.0])) == 1


def test_the_share_of_the_small_model_is_reported_and_a_deaf_head_warned_of(tiny_bert, tmp_path, caplog):
    _, installed = install(tiny_bert, dropout=0.0)
    assert installed.report() == {}
    with torch.no_grad():
        installed.model.heads.from_small[1] *= 1e-3
    installed.model.train()
    installed.model(**BATCH)
    shares = installed.report()
    heads = installed.model.heads
    with torch.no_grad():
        pooled = installed.features(BATCH)["pooled"][:, 0]
        h = layer_norm(pooled, heads.norm_weight[:16], heads.norm_bias[:16]) @ heads.from_base[0].T
        z = installed.model.small(BATCH["input_ids"], BATCH["attention_mask"]) @ heads.from_small[0].T
    expected = z.norm(dim=1).mean() / (z.norm(dim=1).mean() + h.norm(dim=1).mean())
    assert shares["small_share/head_1"] == pytest.approx(float(expected), abs=1e-5)
    assert shares["small_share/head_2"] < 0.05
    with caplog.at_level("INFO", logger="pairtune"):
        installed.write(tmp_path)
    assert "1 of 3 heads hardly use the small model" in caplog.text


def test_layers_are_counted_from_one_and_checked():
    assert chosen_layers("all", 6) == [1, 2, 3, 4, 5, 6]
    assert chosen_layers("all", 24) == list(range(2, 25, 2))
    assert len(chosen_layers("all", 13)) == 12 and chosen_layers("all", 13)[-1] == 13
    assert chosen_layers("last-half", 6) == [4, 5, 6] and chosen_layers("last", 6) == [6]
    assert chosen_layers([3, 1], 6) == [1, 3]
    with pytest.raises(InputError, match="no block 7"):
        chosen_layers([7], 6)
    with pytest.raises(InputError, match="no block 0"):
        chosen_layers([0], 6)


def test_settings_that_leave_nothing_to_fit_are_refused():
    for wrong in ({"small": "none", "layers": "none"}, {"head_weight": 0, "ensemble_weight": 0}):
        with pytest.raises(ConfigError, match="nothing"):
            registry.build("tuners", "levi", wrong)
