"""When memory runs out, the same rows are computed in smaller pieces, each once."""

import pytest
import torch

from pairtune.training.oom import OutOfMemory, cut, is_out_of_memory

from .runs import Recorder, dense, losses, rows, same_gradients, trainer_of, weights


class Allocator(torch.autograd.Function):
    """A forward or a backward that cannot be allocated for more than `most` rows."""

    @staticmethod
    def forward(ctx, x, most, where):
        ctx.most, ctx.where = most, where
        if where == "forward" and len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if ctx.where == "backward" and len(gradient) > ctx.most:
            # By now the layers above have added their gradients: what is left over must not count twice.
            raise MemoryError("cannot allocate")
        return gradient, None, None


def scarce(pair, trainer, most, from_step, where):
    """From optimizer step `from_step` on, block 0 does not get memory for more than `most` rows."""
    seen = []

    def hook(_module, _args, output):
        if not torch.is_grad_enabled():
            return output
        seen.append(len(output))
        return Allocator.apply(output, most if trainer.state.global_step + 1 >= from_step else 10**9, where)

    pair.base.model.bert.encoder.layer[0].register_forward_hook(hook)
    return seen


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_pieces_give_the_same_run(tiny_bert, tmp_path, where):
    settings = {"batch_size": 4, "accumulation": 2, "max_steps": 5, "log_every": 1, "lr": 1e-3}
    plenty = dense(tiny_bert, dropout=0.0)
    expected, found = Recorder(), Recorder()
    reference = trainer_of(plenty, tmp_path / "plenty", rows(24), constraints={"r": expected}, **settings)
    reference.train()
    pair = dense(tiny_bert, dropout=0.0)
    trainer = trainer_of(pair, tmp_path / "scarce", rows(24), constraints={"r": found}, **settings)
    seen = scarce(pair, trainer, 1, 3, where)
    trainer.train()
    # Step 3 fails at its first batch of 4 rows, then at 2; from then on single rows.
    assert trainer.pieces.events == [
        {"step": 3, "pieces": 2, "rows_at_once": 2},
        {"step": 3, "pieces": 4, "rows_at_once": 1},
    ]
    assert seen == [4] * 4 + [4, 2] + [1] * 24
    for mine, theirs in zip(losses(trainer), losses(reference), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert mine["accuracy"] == pytest.approx(theirs["accuracy"])  # the parts are not counted twice either
    # Later steps start from weights that differ by what Adam makes of rounding.
    found.gradients, expected.gradients = found.gradients[:3], expected.gradients[:3]
    assert same_gradients(found, expected)


def test_failing_at_the_second_batch_of_a_step_computes_the_first_again(tiny_bert, tmp_path):
    table = rows(8)
    settings = {"batch_size": 4, "accumulation": 2, "max_steps": 1, "log_every": 1, "lr": 1e-3}
    plenty, pair = dense(tiny_bert, dropout=0.0), dense(tiny_bert, dropout=0.0)
    expected, found = Recorder(), Recorder()
    reference = trainer_of(plenty, tmp_path / "plenty", table, constraints={"r": expected}, **settings)
    reference.train()
    trainer = trainer_of(pair, tmp_path / "scarce", table, constraints={"r": found}, **settings)
    calls = []

    def hook(_module, _args, output):
        calls.append(len(output))
        return Allocator.apply(output, 2 if len(calls) > 1 else 99, "backward")

    pair.base.model.bert.encoder.layer[0].register_forward_hook(hook)
    trainer.train()
    assert calls == [4, 4, 2, 2, 2, 2]
    assert losses(trainer)[0]["loss"] == pytest.approx(losses(reference)[0]["loss"], rel=1e-4)
    assert same_gradients(found, expected)


def test_it_gives_up_with_advice_when_single_rows_do_not_fit(tiny_bert, tmp_path):
    pair = dense(tiny_bert)
    before = weights(pair)
    trainer = trainer_of(pair, tmp_path, rows(8), batch_size=4, max_steps=2)
    scarce(pair, trainer, 0, 1, "forward")
    with pytest.raises(OutOfMemory, match=r"step 1: .* 1 row of \d tokens at a time .*training.max_length"):
        trainer.train()
    assert len(trainer.pieces.events) == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(pair).items())


def test_the_pieces_survive_a_resume(tiny_bert, tmp_path):
    pair = dense(tiny_bert)
    settings = {"batch_size": 4, "max_steps": 4, "save_every": 2}
    trainer = trainer_of(pair, tmp_path, rows(16), **settings)
    scarce(pair, trainer, 2, 1, "forward")
    trainer.train()
    from pairtune.training import resume

    loop = resume.check(tmp_path / "checkpoint-2", {}, False)
    again = trainer_of(dense(tiny_bert), tmp_path / "again", rows(16), resumed=loop, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.pieces.factor == 2
    assert again.pieces.events == trainer.pieces.events


def test_other_errors_pass_and_batches_are_cut_by_rows():
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 12 bytes"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    batch = {
        "input_ids": torch.arange(10).reshape(5, 2),
        "index": torch.arange(5),
        "scale": torch.tensor(2.0),
        "x": "a",
    }
    pieces = cut(batch, 2)
    assert [len(piece["input_ids"]) for piece in pieces] == [3, 2]
    assert torch.equal(torch.cat([piece["index"] for piece in pieces]), batch["index"])
    assert all(piece["scale"] == 2 and piece["x"] == "a" for piece in pieces)
