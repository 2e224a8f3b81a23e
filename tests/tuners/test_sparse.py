"""Sparse tuning: exact selection, only the chosen entries move, exact storage, two phases that resume."""

import json
import shutil

import pytest
import torch

from pairtune import recipes, registry
from pairtune.errors import ConfigError, DeltaMismatch, InputError, PairtuneError
from pairtune.pair.apply import install_delta
from pairtune.pair.base import Base
from pairtune.pair.names import norm_parameters
from pairtune.pair.pair import Layer, Pair
from pairtune.pair.parts import Sparse
from pairtune.training.config import merged
from pairtune.training.run import tune
from pairtune.tuners.full import Full
from pairtune.tuners.sparse_install import may_move

LABELS = ["a", "b", "c"]
BATCH = {"input_ids": torch.tensor([[1, 8, 9, 60, 11]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
SIZES = {"max_steps": 6, "batch_size": 8, "lr": 0.02}


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in (("train", 24), ("validation", 8)):
        rows = [{"text": f"the {'money dog'.split()[i % 2]} is old {i}", "label": "ab"[i % 2]} for i in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def recipe(base, data, out, **over):
    """The shipped recipe for a few steps, with what stands in `over` laid over it."""
    config = {"base": str(base), "data": str(data), "device": "cpu", "out": str(out), "training": SIZES}
    return merged(recipes.find("lt-sft").values, merged(config, over))


def logits(pair):
    with torch.no_grad():
        return pair.forward(BATCH).logits


# -- which entries ---------------------------------------------------------------------------------------------------


def moved(tuner, folder):
    """`tuner` after a phase of full tuning on a base; the base, what moved, and the start, by names in memory."""
    base = Base.load(folder, task="classification", labels=LABELS)
    start = {name: p.detach().clone() for name, p in base.parameters.items()}
    earlier = Full().install(base, base.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in earlier.trainable():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    distance = {name: (p.detach() - start[name]).abs() for name, p in earlier.trainable()}
    earlier.off()
    tuner.follow(earlier)
    return base, distance, start


@pytest.mark.parametrize("family", ["tiny_bert", "tiny_llama", "tiny_t5"])
def test_what_moved_most_in_the_first_phase_may_move_and_nothing_of_it_is_kept(family, request):
    tuner = registry.build("tuners", "sparse", {"entries": 500})
    base, distance, start = moved(tuner, request.getfixturevalue(family))
    installed = tuner.install(base, base.model)
    free = may_move(base)
    norms = norm_parameters(base.model)
    assert norms and not free.keys() & {*norms, *base.new_names}
    assert free.keys() | set(norms) | base.new_names >= set(base.parameters) - {"classifier.weight"}
    together = torch.cat([distance[name].reshape(-1) for name in free])
    border = together.sort(descending=True).values[499]
    chosen = {name: (distance[name].reshape(-1) >= border).nonzero().squeeze(1) for name in free}
    assert sum(len(index) for index in chosen.values()) == 500
    assert {name: index.tolist() for name, index in installed.places.items()} == {
        name: index.tolist() for name, index in chosen.items() if len(index)
    }
    # Everything is as before the first phase, the head included.
    assert all(torch.equal(parameter, start[name]) for name, parameter in installed.trainable())
    assert {name for name, _ in installed.trainable()} - set(installed.places) == set(base.new_names)


def test_density_counts_what_may_move_and_more_than_that_is_refused(tiny_bert):
    base = Base.load(tiny_bert, task="classification", labels=LABELS)
    total = sum(p.numel() for p in may_move(base).values())
    for density in (0.03, 1.0):
        installed = registry.build("tuners", "sparse", {"choose": "random", "density": density}).install(
            base, base.model
        )
        assert sum(map(len, installed.places.values())) == round(density * total)
        installed.off()
    with pytest.raises(InputError, match=f"has {total:,} that may move"):
        registry.build("tuners", "sparse", {"choose": "random", "entries": total + 1}).install(base, base.model)


def test_random_places_are_spread_and_depend_on_the_seed_alone(tiny_bert):
    base = Base.load(tiny_bert, task="classification", labels=LABELS)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        installed = registry.build("tuners", "sparse", {"choose": "random", "density": 0.2}).install(base, base.model)
        found.append({name: index.tolist() for name, index in installed.places.items()})
        installed.off()
    assert found[0] == found[1] != found[2]
    shares = [len(found[0][name]) / p.numel() for name, p in may_move(base).items() if p.numel() >= 256]
    assert len(shares) > 10 and min(shares) > 0.1 and max(shares) < 0.3


def test_a_first_phase_that_says_nothing_is_refused(tiny_bert, tiny_llama):
    tuner = registry.build("tuners", "sparse", {})
    base = Base.load(tiny_bert, task="classification", labels=LABELS)
    with pytest.raises(InputError, match="take the recipe lt-sft"):
        tuner.install(base, base.model)
    earlier = registry.build("tuners", "head", {}).install(base, base.model)
    earlier.off()
    tuner.follow(earlier)
    with pytest.raises(InputError, match="moved none of the base's weights"):
        tuner.install(base, base.model)
    lora = registry.build("tuners", "lora", {"r": 2}).install(other := Base.load(tiny_llama), other.model)
    with pytest.raises(InputError, match="must tune the base's weights themselves"):
        tuner.follow(lora)


# -- what it holds ---------------------------------------------------------------------------------------------------


def trained(folder, **values):
    """A pair with a sparse delta after some steps of AdamW with decay, as the loop would do them."""
    base = Base.load(folder, task="classification", labels=LABELS)
    tuner = registry.build("tuners", "sparse", {"choose": "random", "density": 0.1, **values})
    torch.manual_seed(0)
    installed = tuner.install(base, base.model)
    pair = Pair(base, [Layer(installed, lambda: tuner.extract(installed), {"tuner": {"name": "sparse"}})])
    from pairtune.training.optimizer import make_optimizer

    optimizer = make_optimizer(pair, [], lr=0.05, weight_decay=0.1)
    for _ in range(4):
        installed.model(**BATCH).logits.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return pair, installed


@pytest.mark.parametrize("family", ["tiny_bert", "tiny_llama"])
def test_what_was_not_chosen_is_the_bases_bit_for_bit_also_with_weight_decay(family, request):
    pair, installed = trained(request.getfixturevalue(family))
    moved_at = 0
    for name, index in installed.places.items():
        outside = torch.ones(installed.variants[name].numel(), dtype=torch.bool)
        outside[index] = False
        value, start = installed.variants[name].detach().view(-1), installed.originals[name].detach().view(-1)
        assert torch.equal(value[outside], start[outside])
        moved_at += int((value != start).sum())
    assert moved_at > 100
    delta = pair.delta
    sparse = {name: part for name, part in delta.items() if isinstance(part, Sparse)}
    assert sum(len(part.index) for part in sparse.values()) == sum(map(len, installed.places.values()))
    assert {part.kind for name, part in delta.items() if name not in sparse} <= {"module"}


def test_a_tensor_that_moved_elsewhere_is_not_stored(tiny_bert):
    pair, installed = trained(tiny_bert)
    name, index = next(iter(installed.places.items()))
    place = next(i for i in range(installed.variants[name].numel()) if i not in index.tolist())
    with torch.no_grad():
        installed.variants[name].view(-1)[place] += 1
    with pytest.raises(PairtuneError, match="1 places that were not chosen"):
        _ = pair.delta


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_base_and_stored_difference_give_the_variant_bit_for_bit(dtype, tiny_llama):
    """Also where an entry moved from far above to nearly zero, which a difference in float32 cannot say."""
    base = Base.load(tiny_llama, dtype=dtype)
    tuner = registry.build("tuners", "sparse", {"choose": "random", "density": 0.5})
    installed = tuner.install(base, base.model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, index in installed.places.items():
            flat = installed.variants[name].view(-1)
            scale = torch.randint(-16, 3, index.shape, generator=generator).double().exp2()
            flat[index] = (torch.randn(index.shape, generator=generator).double() * scale).to(dtype)
    delta = tuner.extract(installed)
    assert any(part.values.dtype == torch.float64 for part in delta.values())
    variant = {name: p.detach().clone() for name, p in installed.trainable()}
    installed.off()
    again = install_delta(base, delta)
    assert all(torch.equal(again.variants[name], value) for name, value in variant.items())


def test_a_state_of_other_places_is_refused(tiny_bert):
    base = Base.load(tiny_bert, task="classification", labels=LABELS)
    tuner = registry.build("tuners", "sparse", {"choose": "random", "entries": 200})
    installed = tuner.install(base, base.model)
    state = {name: tensor.clone() for name, tensor in installed.state().items()}
    index = next(name for name in state if name.endswith("::index") and len(state[name]) < 20)
    state[index][-1] = installed.variants[index.removesuffix("::index")].numel() - 1
    if torch.equal(state[index], installed.state()[index]):
        state[index][-1] -= 1
    with pytest.raises(DeltaMismatch, match="other places"):
        installed.load_state(state)


# -- sums of them ----------------------------------------------------------------------------------------------------


def test_deltas_of_two_skills_add_in_any_order_and_come_off_again(tiny_bert, tmp_path):
    one, two = (trained(tiny_bert, density=density)[0].delta.drop("classifier.*") for density in (0.1, 0.3))
    both, other = one + two, two + one
    assert {part.kind for part in both.values()} == {"sparse"}
    shared = 0
    for name, part in both.items():
        assert torch.equal(part.index, other[name].index) and torch.equal(part.values, other[name].values)
        dense = sum(delta[name].difference() for delta in (one, two) if name in delta)
        assert torch.allclose(part.difference(), dense, rtol=0, atol=1e-6)
        shared += sum(len(d[name].index) for d in (one, two) if name in d) - len(part.index)
    assert shared > 0
    base = Base.load(tiny_bert)
    before = base.checksum()
    installed = install_delta(base, both)
    assert all(not torch.equal(p, installed.originals[n]) for n, p in installed.variants.items())
    installed.off()
    assert base.checksum() == before
    # Taking one off leaves the other.
    for name, part in (both - two).items():
        mine = one[name].difference() if name in one else torch.zeros(part.shape)
        assert torch.allclose(part.difference(), mine, rtol=0, atol=1e-6)


# -- the recipe ------------------------------------------------------------------------------------------------------


def test_the_recipe_keeps_one_sparse_delta_that_loads_with_the_same_outputs(tiny_bert, data, tmp_path):
    run = recipe(tiny_bert, data, tmp_path / "out", tuner={"density": 0.05}, training={"weight_decay": 0.1})
    pair = tune(run)
    assert [layer.record["tuner"]["name"] for layer in pair.layers] == ["sparse"]
    assert pair.top.record["tuner"]["density"] == 0.05
    total = sum(p.numel() for p in may_move(pair.base).values())
    head = sum(pair.base.parameters[name].numel() for name in pair.base.new_names)
    assert pair.top.record["training"]["preflight"]["trainable"] == round(0.05 * total) + head
    parts = [part for part in pair.delta.values() if isinstance(part, Sparse)]
    assert sum(len(part.index) for part in parts) == round(0.05 * total)
    assert not pair.delta.keys() & set(norm_parameters(pair.base.model))
    loaded = Pair.load(tmp_path / "out")
    assert torch.equal(logits(loaded), logits(pair))
    with loaded.off():
        assert not torch.equal(logits(loaded), logits(pair))
    # The first phase took the same data from the same head: it is what full tuning with frozen norms gives.
    full = tune({**run, "stages": [], "tuner": "full", "out": str(tmp_path / "full")})
    distance = {n: (p.detach() - full.top.installed.originals[n]).abs().view(-1) for n, p in full.trainable()}
    border = min(float(distance[n][index].min()) for n, index in pair.top.installed.places.items())
    assert sum(int((distance[n] > border).sum()) for n in may_move(pair.base)) < round(0.05 * total)


@pytest.mark.parametrize("where", ["after both", "in the second", "after the first"])
def test_a_run_that_stopped_in_either_phase_goes_on_to_the_same_delta(where, tiny_llama, data, tmp_path):
    run = recipe(tiny_llama, data, tmp_path / "out", training={"save_every": 2, "eval_every": 2, "keep": 9})
    whole = tune(run)
    expected = {name: tensor.clone() for name, tensor in whole.top.installed.state().items()}
    shutil.rmtree(tmp_path / "out")
    second = tmp_path / "out.run" / "stage-2"
    if where != "after both":
        shutil.rmtree(second / "delta")
        for folder in second.glob("checkpoint-*"):
            if where == "after the first" or int(folder.name.rpartition("-")[2]) > 2:
                shutil.rmtree(folder)
    again = tune(run, resume=True)
    assert again.top.installed.state().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.top.installed.state().items())


def test_stages_that_make_no_sense_are_refused_before_anything_loads(tiny_bert, data, tmp_path):
    plain = {"base": str(tiny_bert), "data": str(data), "device": "cpu", "out": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match="take the recipe lt-sft"):
        tune({**plain, "tuner": "sparse"})
    with pytest.raises(ConfigError, match=r"stages.0.rewind: there is no stage before"):
        tune({**plain, "stages": [{"tuner": "sparse", "rewind": True}]})
    with pytest.raises(ConfigError, match=r"stages.1.tuner: lora makes nothing of the stage before"):
        tune({**plain, "stages": [{"tuner": "full"}, {"tuner": "lora", "rewind": True}]})
    assert not (tmp_path / "out.run").exists()
