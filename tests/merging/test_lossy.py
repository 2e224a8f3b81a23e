"""A delta's largest entries, or its signs: against direct evaluation, as a pair, as an input, killed, and refused."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from tests.merging.models import moved
from tests.merging.test_interrupted import in_child, kill_at_write

from pairtune.errors import DeltaMismatch, InputError
from pairtune.merging.engine import operands
from pairtune.merging.engine.run import merge
from pairtune.pair.checkpoint import Checkpoint
from pairtune.pair.complete import verify
from pairtune.pair.delta_io import load_delta
from pairtune.pair.files import write_safetensors
from pairtune.pair.pair import Pair
from pairtune.pair.parts import Sign
from pairtune.pair.tensor_names import layer_of


@pytest.fixture
def model(tiny_llama, tmp_path):
    return moved(tiny_llama, tmp_path / "model", 1)


def run(model, base, out, **more):
    return merge([model], out, base=base, to="delta", **more)


def read(folder, base):
    return load_delta(folder / "delta.safetensors", Checkpoint(base).__getitem__)


def change(model, base):
    new, old = Checkpoint(model), Checkpoint(base)
    return {name: new[name].float() - old[name].float() for name in old}


def by_hand(found, density):
    """The largest entries of some tensors together, those of equal size in the order of the tensors."""
    flat = torch.cat([one.flatten() for one in found.values()])
    kept = torch.zeros_like(flat)
    index = flat.abs().argsort(descending=True, stable=True)[: round(density * len(flat))]
    kept[index] = flat[index]
    return dict(zip(found, kept.split([one.numel() for one in found.values()]), strict=True))


def natural(found, base):
    """In the order in which the engine has them."""
    return {name: found[name] for name in sorted(found, key=lambda name: list(read_order(base)).index(name))}


def read_order(base):
    from pairtune.pair.tensor_names import natural

    return sorted(Checkpoint(base), key=natural)


@pytest.mark.parametrize("by", ["global", "layer"])
@pytest.mark.parametrize("small", [False, True], ids=["whole tensors", "pieces"])
def test_exactly_the_largest_entries_are_kept(model, tiny_llama, tmp_path, monkeypatch, by, small):
    if small:
        monkeypatch.setattr(operands, "PIECE", 64)
    done = run(model, tiny_llama, tmp_path / "out", sparsify=0.1, sparsify_by=by)
    verify(tmp_path / "out")
    whole = natural(change(model, tiny_llama), tiny_llama)
    groups: dict[str, dict] = {}
    for name, tensor in whole.items():
        groups.setdefault(layer_of(name) if by == "layer" else "", {})[name] = tensor
    delta, lost, total = read(tmp_path / "out", tiny_llama), {}, {}
    for group in groups.values():
        for name, kept in by_hand(group, 0.1).items():
            found = delta.difference(name).flatten() if name in delta else torch.zeros_like(kept)
            assert torch.equal(found, kept), name
            assert name not in delta or delta[name].kind == "sparse"
            layer = layer_of(name)
            lost[layer] = lost.get(layer, 0) + float((whole[name].flatten() - kept).double().square().sum())
            total[layer] = total.get(layer, 0) + float(whole[name].double().square().sum())
    assert done.card["entries"][0] == sum(len(part.values) for part in delta.values())
    assert done.card["layers"] == pytest.approx({name: (lost[name] / total[name]) ** 0.5 for name in lost}, rel=1e-5)
    assert done.card["form"] == {"sparsify": 0.1, "by": by}


def test_of_equal_entries_the_first_are_kept(tiny_llama, tmp_path):
    base = Checkpoint(tiny_llama)
    same = {name: (tensor * 0 + 1).contiguous() for name, tensor in base.items()}
    ones, twos = tmp_path / "ones", tmp_path / "twos"
    for folder, value in ((ones, 1.0), (twos, 3.0)):
        moved(tiny_llama, folder, 0)
        write_safetensors(folder / "model.safetensors", {n: t * value for n, t in same.items()}, {"format": "pt"})
    run(twos, ones, tmp_path / "out", sparsify=0.25)
    delta = read(tmp_path / "out", ones)
    total = sum(tensor.numel() for tensor in base.values())
    left = round(0.25 * total)
    for name in read_order(tiny_llama):
        here = min(left, base[name].numel())
        left -= here
        assert (len(delta[name].index) if name in delta else 0) == here
        assert not here or torch.equal(delta[name].index, torch.arange(here))


@pytest.mark.parametrize("small", [False, True], ids=["whole tensors", "pieces"])
def test_signs_and_one_size_are_the_nearest_of_that_form(model, tiny_llama, tmp_path, monkeypatch, small):
    if small:
        monkeypatch.setattr(operands, "PIECE", 44)
    done = run(model, tiny_llama, tmp_path / "out", sign=True)
    delta, whole = read(tmp_path / "out", tiny_llama), change(model, tiny_llama)
    for name, tensor in whole.items():
        found = delta[name].difference(Checkpoint(tiny_llama)[name])
        if tensor.ndim < 2:
            assert torch.allclose(found, tensor, atol=1e-7)
            continue
        size = tensor.double().abs().mean()
        assert torch.allclose(found.double(), torch.where(tensor > 0, size, -size), rtol=1e-6), name
        error = float((found.double() - tensor).norm())
        for other in (0.9, 1.1):
            assert float((found.double() * other - tensor).norm()) > error
    name = "model.embed_tokens.weight"
    error = float((delta.difference(name) - whole[name]).norm() / whole[name].norm())
    assert done.card["layers"]["model.embed_tokens"] == pytest.approx(error, rel=1e-5)
    assert 0.5 < error < 0.7  # of Gaussian noise sqrt(1 - 2/pi)


def test_signs_take_a_sixteenth_of_bfloat16(tmp_path):
    from tests.conftest import make_tokenizer, save
    from transformers import AutoModelForCausalLM, LlamaConfig

    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, vocab_size=300)
    save(tmp_path / "base", AutoModelForCausalLM.from_config(config).bfloat16(), make_tokenizer())
    moved(tmp_path / "base", tmp_path / "model", 1)
    merge([tmp_path / "model"], tmp_path / "out", base=tmp_path / "base", to="delta", sign=True, check=False)
    full = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert 15 < full / (tmp_path / "out" / "delta.safetensors").stat().st_size < 17


@pytest.mark.parametrize("form", [{"sparsify": 0.2}, {"sign": True}])
def test_it_is_a_pair_and_an_input_like_any_other(model, tiny_llama, tmp_path, form):
    run(model, tiny_llama, tmp_path / "out", **form)
    delta, base = read(tmp_path / "out", tiny_llama), Checkpoint(tiny_llama)
    pair = Pair.load(tmp_path / "out", str(tiny_llama))
    for name in base:
        expected = delta.apply(name, base[name]) if name in delta else base[name]
        assert torch.allclose(dict(pair.model.named_parameters())[name], expected, atol=1e-7)
    again = pair.save(tmp_path / "saved")
    assert again.parents
    assert {p.kind for p in read(tmp_path / "saved", tiny_llama).values()} == {p.kind for p in delta.values()}
    merge([tmp_path / "out"], tmp_path / "whole", "linear", weights=[1.0])
    whole = Checkpoint(tmp_path / "whole")
    assert all(torch.allclose(whole[n], dict(pair.model.named_parameters())[n], atol=1e-7) for n in whole)
    twice = merge([tmp_path / "out"] * 2, tmp_path / "twice", "task-arithmetic", weights=[0.75, 0.5], check=False)
    for name in base:
        moved_by = 1.25 * delta[name].difference(base[name]) if name in delta else 0
        assert torch.allclose(Checkpoint(twice.folder)[name], base[name] + moved_by, atol=1e-6)


def test_a_small_change_of_a_delta_keeps_its_digits(model, tiny_llama, tmp_path):
    """The sum is not led through the base's numbers, beside which 1e-10 would be nothing."""
    run(model, tiny_llama, tmp_path / "one", sparsify=1.0)
    small = merge([tmp_path / "one"], tmp_path / "small", "task-arithmetic", {"scale": 1e-8}, to="delta", check=False)
    again = merge([small.folder], tmp_path / "again", "task-arithmetic", to="delta", sparsify=0.5)
    whole = {name: 1e-8 * tensor for name, tensor in change(model, tiny_llama).items()}
    delta = read(again.folder, tiny_llama)
    expected = by_hand(natural(whole, tiny_llama), 0.5)
    for name, tensor in expected.items():
        assert torch.allclose(delta.difference(name).flatten(), tensor, rtol=1e-6, atol=0), name


def test_killed_in_the_middle_it_goes_on(model, tiny_llama, tmp_path):
    run(model, tiny_llama, tmp_path / "whole", sparsify=0.3)
    status = in_child(lambda: (kill_at_write(20), run(model, tiny_llama, tmp_path / "out", sparsify=0.3)))
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert not (tmp_path / "out").exists()
    run(model, tiny_llama, tmp_path / "out", sparsify=0.3)
    one, other = ((tmp_path / name / "delta.safetensors").read_bytes() for name in ("whole", "out"))
    assert one == other


def test_several_models_and_a_new_head(tiny_llama, tmp_path):
    models = [moved(tiny_llama, tmp_path / name, seed) for seed, name in enumerate("ab")]
    merge(models, tmp_path / "out", "ties", base=tiny_llama, to="delta", sparsify=0.1)
    merge(models, tmp_path / "dense", "ties", base=tiny_llama, check=False)
    expected = by_hand(natural(change(tmp_path / "dense", tiny_llama), tiny_llama), 0.1)
    delta = read(tmp_path / "out", tiny_llama)
    for name, tensor in expected.items():
        found = delta.difference(name).flatten() if name in delta else torch.zeros_like(tensor)
        assert torch.allclose(found, tensor, atol=1e-6), name


def test_what_cannot_be(model, tiny_llama, tmp_path):
    out = tmp_path / "out"
    for more, text in (
        ({"sparsify": 0.0}, "sparsify: expected a share above 0 and at most 1, found 0"),
        ({"sparsify": 1.5}, "sparsify: expected a share above 0 and at most 1, found 1.5"),
        ({"sparsify_by": "layer"}, "sparsify_by: says over what --sparsify SHARE chooses"),
        ({"sign": True, "sparsify": 0.1}, "sign: keeps one bit of every entry"),
    ):
        with pytest.raises(InputError, match=text):
            run(model, tiny_llama, out, **more)
    with pytest.raises(InputError, match="sign: is a form of a delta, --to delta, not of --to merged"):
        merge([model], out, base=tiny_llama, sign=True)
    with pytest.raises(InputError, match="a delta stands on a base"):
        merge([model], out, to="delta", sparsify=0.1)
    with pytest.raises(InputError, match="equals its base"):
        run(tiny_llama, tiny_llama, out, sign=True)
    tensors = {name: tensor.clone() for name, tensor in Checkpoint(model).items()}
    tensors["model.norm.weight"][0] = float("nan")
    write_safetensors(model / "model.safetensors", tensors, {"format": "pt"})
    for more in ({"sparsify": 0.1}, {"sign": True}):
        with pytest.raises(DeltaMismatch, match="NaN or infinite values in model.norm.weight"):
            run(model, tiny_llama, out, **more)
    assert not out.exists() and not (tmp_path / ".out.unfinished").exists()


def test_a_damaged_sign_is_refused():
    with pytest.raises(DeltaMismatch, match=r"signs of \[3, 5\] take 2 bytes of uint8, found \[3\]"):
        Sign((3, 5), torch.zeros(3, dtype=torch.uint8), torch.tensor(1.0))
    with pytest.raises(DeltaMismatch, match="one size, a floating-point number"):
        Sign((3,), torch.zeros(1, dtype=torch.uint8), torch.ones(2))
