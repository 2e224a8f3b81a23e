"""What a run costs is told before it starts, and measuring it changes nothing."""

import pytest
import torch

from pairtune.training.preflight import preflight, speed_bound

from .runs import dense, rows, trainer_of, weights


def test_memory_by_part_is_counted_and_nothing_is_changed(tiny_bert, tmp_path):
    pair = dense(tiny_bert, dropout=0.3)
    trainer = trainer_of(pair, tmp_path, rows(20), batch_size=4, accumulation=2)
    before, state = weights(pair), torch.get_rng_state()
    flight = preflight(trainer, 10)
    count = sum(p.numel() for _, p in pair.trainable())
    assert flight.trainable == flight.parameters == count
    assert flight.memory.weights == flight.memory.delta == flight.memory.gradients == 4 * count  # a second dense set
    assert flight.memory.optimizer == 8 * count
    assert flight.memory.activations > 4 * 4 * 16 * 3
    assert flight.seconds is not None
    assert flight.seconds > 0
    assert (flight.steps, flight.rows) == (10, 8)
    assert flight.to_dict()["memory"]["total"] == flight.memory.total
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, before[n]) for n, t in weights(pair).items())
    assert all(p.grad is None for _, p in pair.trainable())
    plain = dense(tiny_bert, dropout=0.3)
    trainer_of(plain, tmp_path / "plain", rows(20), batch_size=4, accumulation=2, max_steps=3).train()
    trainer = trainer_of(pair, tmp_path / "flown", rows(20), batch_size=4, accumulation=2, max_steps=3)
    preflight(trainer, 3)
    trainer.train()
    assert all(torch.equal(t, weights(plain)[n]) for n, t in weights(pair).items())


def test_activations_are_what_autograd_keeps(tiny_bert, tmp_path):
    """Twice the rows keep twice as much, but for what does not depend on rows."""

    def kept(batch_size):
        table = [{"ids": [5, 6, 7, 8], "label": 0}] * 32
        return preflight(trainer_of(dense(tiny_bert), tmp_path, table, batch_size=batch_size), 1).memory.activations

    one, two, four = kept(4), kept(8), kept(16)
    assert four - two == pytest.approx(2 * (two - one), rel=0.02)


def test_the_bound_on_speed(tiny_llama, tiny_bert, tmp_path):
    from pairtune import registry
    from pairtune.pair.base import Base
    from pairtune.pair.pair import Layer, Pair

    assert speed_bound(dense(tiny_llama, lm=True), 0) == pytest.approx(1.0, abs=0.02)

    def bound(tuner, **settings):
        method = registry.build("tuners", tuner, settings)
        base = Base.load(tiny_bert, task="classification", labels=["a", "b", "c"], device="cpu")
        installed = method.install(base, base.model)
        pair = Pair(base, [Layer(installed, lambda: method.extract(installed), {})])
        return preflight(trainer_of(pair, tmp_path / tuner, rows(8)), 1).bound

    assert 1.3 < bound("lora", r=1, targets=["query"]) < 1.5  # gradients flow back through all blocks
    assert 2.5 < bound("head") <= 3.0  # no gradient flows through the base


def test_a_batch_that_does_not_fit_leaves_the_time_open(tiny_bert, tmp_path):
    pair = dense(tiny_bert)

    def full(_module, _args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    handle = pair.base.model.bert.encoder.layer[1].register_forward_pre_hook(full)
    flight = preflight(trainer_of(pair, tmp_path, rows(8)), 1)
    handle.remove()
    assert flight.seconds is None
    assert flight.table().row_count > 5
