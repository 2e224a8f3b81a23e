"""The loop's promises: accumulation is the big batch, frozen parts stay still, NaN stops, constraints have their
turn."""

import pytest
import torch

from pairtune.constraints.freeze import Freeze
from pairtune.constraints.kl import KL
from pairtune.constraints.l2sp import L2SP
from pairtune.constraints.layer_decay import LayerDecay
from pairtune.errors import ConfigError, DataError, NonFiniteError
from pairtune.training import checkpoint
from pairtune.training.order import StepOrder

from .runs import Recorder, collate, dense, losses, rows, trainer_of, weights


def test_every_row_is_seen_once_an_epoch_and_steps_do_not_depend_on_the_cut():
    def steps(batch_size, accumulation, world=1):
        orders = [StepOrder(23, batch_size, accumulation, 7, rank, world) for rank in range(world)]
        found = []
        for order in orders:
            order.set_epoch(2)
            batches = list(order)
            assert len(batches) == len(order)
            assert all(len(batch) <= batch_size for batch in batches)
            for i, batch in enumerate(batches):
                step = i // order.passes
                found += [[]] * (step + 1 - len(found))
                found[step] = sorted([*found[step], *(row for row in batch if row >= 0)])
        assert len({len(list(order)) for order in orders}) == 1  # processes must make the same number of passes
        return found

    whole = steps(12, 1)
    assert sorted(row for step in whole for row in step) == list(range(23))
    assert whole == steps(4, 3) == steps(1, 12) == steps(2, 6, world=2) == steps(4, 3, world=3) == steps(3, 4, world=8)
    first, second = StepOrder(23, 4, 1, 7), StepOrder(23, 4, 1, 7)
    second.set_epoch(1)
    assert list(first) != list(second)


@pytest.mark.parametrize("lm", [False, True])
def test_accumulation_gives_the_gradient_of_the_big_batch(tiny_bert, tiny_llama, tmp_path, lm):
    def gradient(batch_size, accumulation):
        pair = dense(tiny_llama if lm else tiny_bert, lm=lm, dropout=0.0)
        pair.base.model.config.attention_dropout = 0.0
        for module in pair.base.model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        for _, p in pair.trainable():
            p.data += 0.01  # off the base, so that the penalties pull
        recorder = Recorder()
        constraints = {"l2sp": L2SP(weight=0.5), "recorder": recorder}
        if lm:
            constraints["kl"] = KL(weight=0.5)
        trainer_of(
            pair, tmp_path, rows(12), lm=lm, constraints=constraints, batch_size=batch_size,
            accumulation=accumulation, max_steps=1, max_grad_norm=0.0,
        ).train()  # fmt: skip
        return recorder.gradients[0]

    big = gradient(12, 1)
    norm = torch.stack([g.norm() for g in big.values()]).norm()
    for cut in ((4, 3), (1, 12), (5, 2)):
        small = gradient(*cut)
        if cut == (5, 2):
            continue  # ten rows a step: another step, which must differ
        difference = torch.stack([(big[name] - small[name]).norm() for name in big]).norm()
        assert difference / norm < 1e-6
    assert torch.stack([(big[n] - small[n]).norm() for n in big]).norm() / norm > 1e-2


def test_constraints_see_the_whole_gradient_before_clipping_and_the_weights_after_the_step(tiny_bert, tmp_path):
    pair, recorder = dense(tiny_bert), Recorder()
    trainer = trainer_of(
        pair, tmp_path, rows(12), constraints={"r": recorder}, accumulation=2, max_steps=3, max_grad_norm=1e-3
    )
    trainer.train()
    assert len(recorder.gradients) == len(recorder.after) == 3
    norm = torch.stack([g.norm() for g in recorder.gradients[0].values()]).norm()
    assert norm > 0.01  # not clipped yet
    final = weights(pair)
    assert all(torch.equal(recorder.after[-1][name], final[name]) for name in final)


def test_the_logged_loss_is_the_mean_over_units_with_the_parts_beside_it(tiny_bert, tmp_path):
    trainer = trainer_of(
        dense(tiny_bert, dropout=0.0), tmp_path, rows(12), constraints={"l2sp": L2SP()}, batch_size=3, accumulation=2,
        max_steps=2, log_every=2, lr=1e-9,
    )  # fmt: skip
    trainer.train()
    pair = dense(tiny_bert, dropout=0.0)
    batch = collate(rows(12))(range(12))
    with torch.no_grad():
        logits = pair.forward(batch).logits
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]  # the first step has a line of its own; both have six rows
    line = {name: sum(line[name] for line in lines) / 2 for name in ("loss", "penalty_l2sp", "accuracy")}
    direct = torch.nn.functional.cross_entropy(logits, batch["labels"])
    assert line["loss"] - line["penalty_l2sp"] == pytest.approx(direct.item(), abs=1e-5)
    assert line["accuracy"] == pytest.approx((logits.argmax(-1) == batch["labels"]).float().mean().item())


def test_frozen_parts_stay_in_evaluation_mode_whatever_calls_train(tiny_bert, tmp_path):
    pair = dense(tiny_bert, dropout=0.5)
    seen = []

    def look(module, _args):
        if torch.is_grad_enabled():
            seen.append((module.dropout.training, pair.base.model.bert.encoder.layer[2].output.dropout.training))

    pair.base.model.bert.embeddings.register_forward_pre_hook(look)
    trainer = trainer_of(pair, tmp_path, rows(8), constraints={"freeze": Freeze(embeddings=True)}, max_steps=2)
    trainer.train()
    assert seen
    assert set(seen) == {(False, True)}  # dropout inside the frozen embeddings is off, above it is on
    before = pair.top.installed.originals["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(weights(pair)["bert.embeddings.word_embeddings.weight"], before)


def test_groups_no_decay_on_vectors_and_learning_rates_by_depth(tiny_bert, tmp_path):
    pair = dense(tiny_bert)
    trainer = trainer_of(
        pair, tmp_path, rows(8), constraints={"layer-decay": LayerDecay(factor=0.5)}, weight_decay=0.1, max_steps=1
    )
    trainer.train()
    settings = {name: group for group in trainer.optimizer.param_groups for name in group["names"]}
    assert settings.keys() == dict(pair.trainable()).keys()
    assert settings["classifier.weight"]["weight_decay"] == 0.1
    assert settings["classifier.bias"]["weight_decay"] == 0.0
    assert settings["bert.encoder.layer.0.output.LayerNorm.weight"]["weight_decay"] == 0.0
    assert settings["bert.encoder.layer.1.output.dense.weight"]["initial_lr"] == pytest.approx(1e-2 * 0.5)


def test_a_nan_stops_the_run_with_step_rows_and_layer_and_keeps_the_last_good_state(tiny_bert, tmp_path):
    pair = dense(tiny_bert)
    table = rows(12)
    poisoned = 7
    table[poisoned]["ids"] = [61, 61, 61]
    # The word 61 stands in this row only; block 1 turns its state into NaN.
    marker = pair.base.model.bert.embeddings

    def poison(_module, args, output):
        return output.masked_fill(pair_ids[0].eq(61)[..., None], float("nan"))

    pair_ids = [None]
    marker.register_forward_pre_hook(lambda _m, a, k: pair_ids.__setitem__(0, k["input_ids"]), with_kwargs=True)
    pair.base.model.bert.encoder.layer[1].output.dense.register_forward_hook(poison)
    trainer = trainer_of(pair, tmp_path, table, batch_size=2, accumulation=2, max_steps=6)
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    text = str(caught.value)
    order = [row for batch in trainer.order for row in batch]
    step = order.index(poisoned) // 4 + 1
    assert f"step {step}: the loss became nan" in text
    assert str(poisoned) in text.split("rows ")[1].split(" of the")[0]
    assert "the output of bert.encoder.layer.1.output.dense" in text
    kept = checkpoint.save_last_good(trainer)
    assert (kept is None) == (step == 1)
    assert all(t.isfinite().all() for t in weights(pair).values())


def test_a_gradient_that_is_not_finite_stops_before_the_step(tiny_bert, tmp_path):
    pair = dense(tiny_bert)

    class Explode(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("inf")

    pair.base.model.bert.encoder.layer[1].register_forward_hook(lambda _m, _a, out: Explode.apply(out))
    before = weights(pair)
    trainer = trainer_of(pair, tmp_path, rows(8), max_steps=3)
    with pytest.raises(
        NonFiniteError, match=r"gradient's norm became .* the gradient at bert\.encoder\.layer\.1\.output\.LayerNorm"
    ):
        trainer.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(pair).items())


def test_a_batch_in_which_nothing_is_scored_is_named(tiny_llama, tmp_path):
    table = rows(4)

    def unscored(numbers):
        batch = collate(table, lm=True)(numbers)
        return {**batch, "labels": torch.full_like(batch["labels"], -100)}

    trainer = trainer_of(dense(tiny_llama, lm=True), tmp_path, table, lm=True, collating=unscored, max_steps=1)
    with pytest.raises(DataError, match=r"no token is scored in rows \d, \d of the training split"):
        trainer.train()


def test_best_checkpoint_by_validation_and_early_stopping(tiny_bert, tmp_path):
    table, held = rows(16), rows(6, seed=9)
    trainer = trainer_of(
        dense(tiny_bert), tmp_path, table, validation=held, eval_every=2, patience=2, max_steps=60, keep=1,
        metric="loss", lr=5e-2,
    )  # fmt: skip
    trainer.train()
    seen = [(line["step"], line["eval_loss"]) for line in trainer.state.log_history if "eval_loss" in line]
    best = min(seen, key=lambda pair: pair[1])
    assert trainer.state.best_global_step == best[0]
    assert trainer.state.best_metric == best[1]
    assert trainer.state.global_step < 60  # random labels: validation gets worse
    assert seen[-1][0] == trainer.state.global_step
    assert trainer.best.since == 2
    kept = {path.name for path in tmp_path.glob("checkpoint-*")}
    assert kept == {f"checkpoint-{best[0]}", f"checkpoint-{trainer.state.global_step}"}


def test_validation_does_not_move_the_training(tiny_bert, tmp_path):
    plain, checked = dense(tiny_bert), dense(tiny_bert)
    trainer_of(plain, tmp_path / "a", rows(8), max_steps=4).train()
    trainer = trainer_of(checked, tmp_path / "b", rows(8), validation=rows(5, seed=3), eval_every=1, max_steps=4)
    trainer.train()
    assert all(torch.equal(t, weights(checked)[n]) for n, t in weights(plain).items())
    assert len(losses(trainer)) == 3


def test_an_unknown_metric_is_named_with_the_nearest(tiny_bert, tmp_path):
    trainer = trainer_of(
        dense(tiny_bert), tmp_path, rows(8), validation=rows(4), eval_every=1, metric="acuracy", max_steps=2
    )
    with pytest.raises(ConfigError, match="did you mean accuracy"):
        trainer.train()


def test_half_precision_computes_in_bfloat16_and_keeps_float32_weights(tiny_llama, tmp_path):
    pair, types = dense(tiny_llama, lm=True), []
    block = pair.base.model.model.layers[0].mlp.down_proj
    block.register_forward_hook(lambda _m, _a, out: types.append(out.dtype))
    trainer = trainer_of(pair, tmp_path, rows(8), lm=True, max_steps=2, autocast=torch.bfloat16)
    trainer.train()
    assert set(types) == {torch.bfloat16}
    assert {tensor.dtype for tensor in weights(pair).values()} == {torch.float32}
