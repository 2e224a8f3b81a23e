"""Freezing, layer-wise decay and re-initialisation: their equations, their refusals, and together."""

import pytest
import torch

from pairtune.constraints.freeze import Freeze
from pairtune.constraints.layer_decay import LayerDecay
from pairtune.constraints.reinit import Reinit
from pairtune.errors import ConfigError
from pairtune.training.optimizer import make_optimizer

from ..conftest import make_tokenizer, save
from ..training.runs import dense, optimizer_state, rows, trainer_of, weights
from .pairs import dense_pair

LABELS = ["yes", "no", "perhaps"]


@pytest.fixture(scope="session")
def tiny_electra(tmp_path_factory):
    """An encoder without a pooler, whose embeddings are projected before the first block."""
    from transformers import ElectraConfig, ElectraModel

    tokenizer = make_tokenizer()
    config = ElectraConfig(
        vocab_size=len(tokenizer), embedding_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, pad_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    return save(tmp_path_factory.mktemp("tiny_electra"), ElectraModel(config), tokenizer)


def labelled(folder, **keywords):
    return dense_pair(folder, task="classification", labels=LABELS, **keywords)


def scales(pair, **settings):
    groups = LayerDecay(**settings).parameter_groups(pair)
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(dict(pair.trainable()))  # every parameter in exactly one group
    return {name: group["lr_scale"] for group in groups for name in group["names"]}


@pytest.mark.parametrize(("top", "head"), [(0, 1.0), (1, 1.0), (2, 3.0)])
def test_layer_decay_is_the_formula(tiny_bert, top, head):
    found = scales(labelled(tiny_bert), factor=0.5, top=top, head=head)
    for name, scale in found.items():
        if ".layer." in name:
            block = int(name.split(".layer.")[1].split(".")[0]) + 1
            assert scale == 0.5 ** (top + 3 - block)
        else:
            assert scale == (0.5 ** (top + 3) if "embeddings" in name else head)
    assert found["bert.pooler.dense.weight"] == found["classifier.bias"] == head


def test_layer_decay_on_an_encoder_with_projected_embeddings_and_on_tied_ones(tiny_electra, tiny_llama):
    found = scales(labelled(tiny_electra), factor=0.5)
    assert found["electra.embeddings_project.weight"] == found["electra.embeddings.LayerNorm.bias"] == 0.25
    assert found["electra.encoder.layer.0.output.dense.weight"] == 0.5
    assert found["electra.encoder.layer.1.output.dense.weight"] == found["classifier.dense.weight"] == 1.0
    pair = dense_pair(tiny_llama)
    found = scales(pair, factor=0.5)
    assert pair.base.model.lm_head.weight is pair.base.model.model.embed_tokens.weight
    assert found["model.embed_tokens.weight"] == 0.5**4
    assert found["model.norm.weight"] == 1.0
    assert "lm_head.weight" not in found


def test_the_optimizer_has_the_rates_without_decay_on_vectors_and_the_schedule_keeps_their_ratio(tiny_bert, tmp_path):
    from transformers import TrainerCallback

    rates = []

    class Look(TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer=None, **_):
            rates.append([group["lr"] for group in optimizer.param_groups])

    constraints = {"layer-decay": LayerDecay(factor=0.5)}
    trainer = trainer_of(
        dense(tiny_bert), tmp_path, rows(12), constraints=constraints, warmup=0.4, max_steps=5, weight_decay=0.01
    )
    trainer.add_callback(Look())
    trainer.train()
    groups = trainer.optimizer.param_groups
    expected = scales(trainer.pair, factor=0.5)
    for group in groups:
        assert {expected[name] for name in group["names"]} == {group["initial_lr"] / 1e-2}
        assert {p.ndim >= 2 for p in group["params"]} == {group["weight_decay"] > 0}
    assert len(groups) == 2 * 4  # embeddings and three blocks; pooler and head move with the topmost block
    start = torch.tensor([group["initial_lr"] for group in groups])
    shape = [0.0, 0.5, 1.0, 2 / 3, 1 / 3]  # two steps up, three down
    for share, now in zip(shape, rates, strict=True):
        torch.testing.assert_close(torch.tensor(now), share * start)


def test_freeze_by_part_and_its_refusals(tiny_bert):
    pair = labelled(tiny_bert)
    Freeze(embeddings=True, blocks=1, pattern="*.attention.*").prepare(pair)
    frozen = {name for name, p in pair.trainable() if not p.requires_grad}
    assert frozen == {
        name for name, _ in pair.trainable() if "embeddings." in name or "layer.0." in name or ".attention." in name
    }
    half = labelled(tiny_bert)
    Freeze(blocks="half").prepare(half)
    assert {name.split(".layer.")[1][0] for name, p in half.trainable() if not p.requires_grad} == {"0"}
    for settings, message in (
        ({}, "choose what to freeze"),
        ({"blocks": 9}, "9 asked for, .* has 3"),
        ({"pattern": "nothing*", "blocks": 1}, "pattern: no trainable tensor"),
        ({"pattern": "*"}, "nothing is left to tune"),
    ):
        with pytest.raises(ConfigError, match=message):
            Freeze(**settings).prepare(labelled(tiny_bert))
    for wrong in (-1, "third", True, 1.5):
        with pytest.raises(ConfigError, match="blocks: expected a number of blocks, 0 or more, or half"):
            Freeze(blocks=wrong)


def test_frozen_parts_have_no_gradient_stay_bit_for_bit_and_drop_nothing_out(tiny_bert, tmp_path):
    pair = dense(tiny_bert, dropout=0.5)
    before = weights(pair)
    freeze = {"freeze": Freeze(embeddings=True, blocks=2)}
    trainer = trainer_of(pair, tmp_path, rows(12), constraints=freeze, max_steps=4, weight_decay=0.1)
    trainer.train()
    kept = {name for name in before if "embeddings." in name or "layer.0." in name or "layer.1." in name}
    assert all(torch.equal(tensor, before[name]) == (name in kept) for name, tensor in weights(pair).items())
    assert all(p.grad is None for name, p in pair.trainable() if name in kept)
    known = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert known == {id(p) for name, p in pair.trainable() if name not in kept}
    model = pair.base.model
    modes = {name: module.training for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    assert {name for name, on in modes.items() if on} == {
        name for name in modes if "layer.2." in name or name == "dropout"
    }
    assert any("embeddings.dropout" in name for name in modes)


def test_reinit_changes_the_listed_modules_alone_by_the_models_own_initialiser(tiny_bert):
    pair = labelled(tiny_bert, noise=0.3)
    pair.base.model.config.initializer_range = 0.5
    before = {name: p.detach().clone() for name, p in pair.trainable()}
    with pair.off():
        base = {name: p.detach().clone() for name, p in pair.base.model.named_parameters()}
    torch.manual_seed(3)
    Reinit(blocks=2).prepare(pair)
    now = dict(pair.trainable())
    listed = {n for n in before if "layer.1." in n or "layer.2." in n or "pooler." in n}
    assert {name for name, p in now.items() if not torch.equal(p, before[name])} == listed
    drawn = torch.cat([now[n].flatten() for n in listed if n.endswith("weight") and "LayerNorm" not in n])
    assert drawn.std().item() == pytest.approx(0.5, rel=0.05)
    assert all(torch.all(now[n] == (1 if n.endswith("LayerNorm.weight") else 0)) for n in listed if now[n].ndim == 1)
    with pair.off():
        assert all(torch.equal(p, base[name]) for name, p in pair.base.model.named_parameters())


def test_reinit_without_a_pooler_and_with_one_that_is_new(tiny_electra, tiny_bert, tmp_path):
    pair = labelled(tiny_electra)
    before = {name: p.detach().clone() for name, p in pair.trainable()}
    Reinit(blocks=1).prepare(pair)
    changed = {name for name, p in pair.trainable() if not torch.equal(p, before[name])}
    assert changed
    assert all("layer.1." in name for name in changed)
    from transformers import BertModel

    BertModel.from_pretrained(tiny_bert, add_pooling_layer=False).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    pair = labelled(tmp_path)
    pooler = dict(pair.trainable())["bert.pooler.dense.weight"]
    assert "bert.pooler.dense.weight" in pair.base.new_names
    as_made = pooler.detach().clone()
    Reinit(blocks=1).prepare(pair)
    assert torch.equal(pooler, as_made)


def test_reinit_refuses_what_it_cannot_do(tiny_bert):
    with pytest.raises(ConfigError, match=r"does not train the weights of .*layer\.2"):
        Reinit(blocks=1).prepare(dense_pair(tiny_bert, only=lambda name: "layer.2." not in name))
    with pytest.raises(ConfigError, match="does not train the weights of bert.pooler"):
        Reinit(blocks=1).prepare(labelled(tiny_bert, only=lambda name: "pooler" not in name))
    with pytest.raises(ConfigError, match="4 asked for"):
        Reinit(blocks=4).prepare(dense_pair(tiny_bert))


def test_reinit_and_freeze_commute_and_do_not_overlap(tiny_bert):
    found = []
    for order in ((Reinit(blocks=1), Freeze(blocks=2)), (Freeze(blocks=2), Reinit(blocks=1))):
        pair = labelled(tiny_bert)
        torch.manual_seed(7)
        for constraint in order:
            constraint.prepare(pair)
        found.append({name: (p.detach().clone(), p.requires_grad) for name, p in pair.trainable()})
    assert all(torch.equal(p, found[1][n][0]) and on == found[1][n][1] for n, (p, on) in found[0].items())
    for order in ((Reinit(blocks=2), Freeze(blocks=2)), (Freeze(blocks=2), Reinit(blocks=2))):
        pair = labelled(tiny_bert)
        order[0].prepare(pair)
        with pytest.raises(ConfigError, match=r"layer\.1.*would stay random"):
            order[1].prepare(pair)


def test_factor_one_no_frozen_and_no_fresh_block_are_the_plain_run_bit_for_bit(tiny_bert, tmp_path):
    off = {"reinit": Reinit(blocks=0), "freeze": Freeze(blocks=0), "layer-decay": LayerDecay(factor=1.0)}
    trainers = []
    for name, constraints in (("plain", {}), ("off", off)):
        pair = dense(tiny_bert, dropout=0.2)
        trainer = trainer_of(pair, tmp_path / name, rows(12), constraints=constraints, max_steps=6, weight_decay=0.01)
        trainer.train()
        trainers.append(trainer)
    plain, other = trainers
    assert all(torch.equal(tensor, weights(other.pair)[name]) for name, tensor in weights(plain.pair).items())
    assert all(torch.equal(a, b) for a, b in zip(optimizer_state(plain), optimizer_state(other), strict=True))


def test_factors_of_two_constraints_multiply(tiny_bert):
    pair = labelled(tiny_bert)
    both = [LayerDecay(factor=0.5), LayerDecay(factor=0.1)]
    rates = {n: g["lr"] for g in make_optimizer(pair, both, 2.0, 0.0).param_groups for n in g["names"]}
    assert rates["bert.encoder.layer.0.output.dense.weight"] == pytest.approx(2.0 * 0.05**2)
