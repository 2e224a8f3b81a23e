"""What the note asks to hold: nothing along the directions after any step, and a gradient that does not pass them."""

import pytest
import torch
import transformers

from pairtune.constraints.directions import Directions
from pairtune.constraints.grasp import Grasp
from pairtune.errors import ConfigError, FormatError, InputError
from pairtune.pair.base import Base
from pairtune.pair.files import write_safetensors
from pairtune.pair.residual import stream_of

from .directed import a_file, tuned_by

BATCH = {
    "input_ids": torch.tensor([[1, 8, 9, 10, 11], [1, 20, 21, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}
LABELS = ["yes", "no", "perhaps"]


def steps(pair, constraint, count=4):
    """AdamW with weight decay and momentum, which leave any subspace by themselves."""
    trained = [parameter for _, parameter in pair.trainable() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.05, weight_decay=0.1)
    for step in range(count):
        optimizer.zero_grad()
        out = pair.forward(BATCH).logits.float()
        target = torch.randn(out.shape, generator=torch.Generator().manual_seed(step))
        (out - target).square().mean().backward()
        constraint.on_gradients(pair)
        optimizer.step()
        constraint.after_step(pair)


def changes(pair):
    """Name of a layer → Δ of its weight, as [out, in]."""
    stream, found = stream_of(pair.base), {}
    for name, part in pair.delta.items():
        module = pair.base.names.memory(name).rpartition(".")[0]
        if part.kind == "module":
            found[module] = (part.value, stream)
        elif len(part.shape) == 2:
            base = pair.base.stored(name).float() if part.needs_base else None
            found[module] = (part.difference(base), stream)
    return found


@pytest.mark.parametrize("where", ["write", "read", "both"])
@pytest.mark.parametrize(("family", "tuner"), [("tiny_llama", "lora"), ("tiny_bert", "full")])
def test_nothing_is_written_or_read_along_the_directions_after_real_steps(family, tuner, where, request, tmp_path):
    head = {"task": "classification", "labels": LABELS} if family == "tiny_bert" else {}
    pair = tuned_by(request.getfixturevalue(family), tuner, **head)
    directions, path = a_file(tmp_path)
    constraint = Grasp(directions=path, where=where)
    constraint.prepare(pair)
    checksum = pair.base.checksum()
    steps(pair, constraint)
    pair.verify_base(checksum)
    moved = changes(pair)
    stream = stream_of(pair.base)
    for side, places in (("write", stream.writers), ("read", stream.readers)):
        present = [name for name in places if name in moved]
        assert present
        for name in present:
            change, met = moved[name][0], getattr(places[name], side)(getattr(directions, side))
            along = (met.T @ change if side == "write" else change @ met).norm() / change.norm()
            assert change.norm() > 1e-3
            assert (along < 1e-5) == (where in (side, "both")), (name, along)
    assert max(one.left() for one in constraint.held) < 1e-5


@pytest.mark.parametrize("tuner", ["lora", "full"])
def test_a_new_head_does_not_read_the_directions_either_and_starts_so(tiny_bert, tmp_path, tuner):
    base = Base.load(tiny_bert)
    transformers.BertModel(base.model.config, add_pooling_layer=False).save_pretrained(tmp_path / "bare")
    base.tokenizer.save_pretrained(tmp_path / "bare")
    pair = tuned_by(tmp_path / "bare", tuner, task="classification", labels=LABELS)
    directions, path = a_file(tmp_path)
    Grasp(directions=path, where="read").prepare(pair)
    pooler = next(p for name, p in pair.trainable() if "pooler" in name and name.endswith("dense.weight"))
    assert (pooler @ directions.read).norm() < 1e-5 < pooler.norm()


def test_the_change_of_the_stream_has_no_part_along_what_writers_may_not_write(tiny_llama, tmp_path):
    """u · (h − h_base) = 0 behind the first block, whose writer gets the base's own input."""
    pair = tuned_by(tiny_llama, "lora", targets=["down_proj"])
    directions, path = a_file(tmp_path)
    constraint = Grasp(directions=path, where="write")
    constraint.prepare(pair)
    steps(pair, constraint)
    found = pair.activations(BATCH, [1, 4])
    difference = found.variant[1] - found.base[1]
    assert (difference @ directions.write).norm() < 1e-5 * difference.norm()
    assert difference.norm() > 1e-2
    later = found.variant[4] - found.base[4]  # there other inputs come in, and the base writes what it always did
    assert (later @ directions.write).norm() > 1e-3 * later.norm()


def test_the_gradient_is_held_before_the_optimizer_sees_it(tiny_llama, tmp_path):
    pair = tuned_by(tiny_llama, "lora", init="gaussian")
    with torch.no_grad():  # A's gradient is zero as long as B is
        for name, parameter in pair.trainable():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    constraint = Grasp(directions=a_file(tmp_path)[1])
    constraint.prepare(pair)
    pair.forward(BATCH).logits.square().mean().backward()
    before = {one.name: one.parameter.grad.clone() for one in constraint.held}
    constraint.on_gradients(pair)
    for one in constraint.held:
        axis = one.parameter.grad if one.axis == 0 else one.parameter.grad.T
        raw = before[one.name] if one.axis == 0 else before[one.name].T
        assert (one.basis.T @ axis).norm() < 1e-5 * axis.norm() < (one.basis.T @ raw).norm()


def test_gradients_do_not_flow_back_through_the_directions_and_the_forward_stays(tiny_llama, tmp_path):
    pair = tuned_by(tiny_llama, "lora")
    directions, path = a_file(tmp_path)
    with torch.no_grad():
        before = pair.forward(BATCH).logits
    caught = {}
    blocks = pair.base.blocks
    constraint = Grasp(directions=path, where="backprop")
    constraint.prepare(pair)

    def see(_module, args, kwargs):
        (args[0] if args else kwargs["hidden_states"]).register_hook(lambda g: caught.update(inside=g))

    def behind(_module, _args, output):
        (output[0] if isinstance(output, tuple) else output).register_hook(lambda g: caught.update(behind=g))

    handles = [
        blocks[1][1].register_forward_hook(behind),
        blocks[3][1].register_forward_pre_hook(see, with_kwargs=True),
    ]
    out = pair.forward(BATCH).logits
    assert torch.equal(out, before)
    out.square().mean().backward()
    assert (caught["behind"] @ directions.write).norm() < 1e-6 * caught["behind"].norm()
    for handle in handles:
        handle.remove()
    constraint.finish(pair)
    assert not any(block._forward_hooks for _, block in blocks)


def test_the_middle_third_alone_is_held(tiny_llama, tmp_path):
    pair = tuned_by(tiny_llama, "lora")
    _, path = a_file(tmp_path)
    constraint = Grasp(directions=path, where="write", layers="middle")
    constraint.prepare(pair)
    assert {one.name.partition("layers.")[2][0] for one in constraint.held} == {"1", "2"}


def test_norms_that_would_train_are_frozen(tiny_bert, tmp_path):
    pair = tuned_by(tiny_bert, "full", task="classification", labels=LABELS)
    Grasp(directions=a_file(tmp_path)[1]).prepare(pair)
    frozen = {name for name, p in pair.trainable() if not p.requires_grad}
    assert frozen and all("LayerNorm" in name for name in frozen)


@pytest.mark.parametrize(
    ("tuner", "settings", "why"),
    [
        ("lora", {"dora": True}, "magnitudes"),
        ("lora", {"init": "pissa"}, "init zero"),
        ("sparse", {"choose": "random"}, "chosen entries"),
        ("adapter", {}, "neither is a weight of the base"),
    ],
)
def test_tuners_that_cannot_be_held_are_refused_in_one_sentence(tiny_llama, tmp_path, tuner, settings, why):
    pair = tuned_by(tiny_llama, tuner, **settings)
    with pytest.raises(ConfigError, match=why):
        Grasp(directions=a_file(tmp_path)[1]).prepare(pair)


def test_a_tuner_beside_the_stream_has_nothing_to_hold(tiny_llama, tmp_path):
    pair = tuned_by(tiny_llama, "lora", targets=["q_proj"])
    with pytest.raises(ConfigError, match="nothing that trains writes to the residual stream"):
        Grasp(directions=a_file(tmp_path)[1], where="write").prepare(pair)


def test_files_that_are_no_directions_of_this_base_are_refused(tiny_llama, tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        Grasp(directions=str(tmp_path / "nowhere"))
    pair = tuned_by(tiny_llama, "lora")
    with pytest.raises(InputError, match="8 numbers"):
        Grasp(directions=a_file(tmp_path, width=8)[1]).prepare(pair)
    write_safetensors(tmp_path / "other.safetensors", {"write": torch.ones(16, 1)})
    with pytest.raises(FormatError, match="expected the matrices write and read"):
        Grasp(directions=str(tmp_path / "other.safetensors")).prepare(pair)
    write_safetensors(tmp_path / "long.safetensors", {"write": torch.ones(16, 1), "read": torch.ones(16, 1)})
    with pytest.raises(FormatError, match="not orthonormal"):
        Grasp(directions=str(tmp_path / "long.safetensors")).prepare(pair)


def test_one_column_keeps_its_sign():
    column = -torch.ones(4, 1)
    assert torch.allclose(Directions.of(column).write, column / 2)
