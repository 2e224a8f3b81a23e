"""Tangent kernels against gradients taken row by row; their spectrum, bounds and report; how linear a change is."""

import json

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge

from pairtune.analysis import kernel_spectrum, tangent_kernel
from pairtune.analysis.linearity import linearity
from pairtune.analysis.ntk import candidates, different, modules_of, ntk, outputs_of
from pairtune.cli.main import dispatch
from pairtune.data.task import Task
from pairtune.errors import InputError
from pairtune.pair.base import Base
from pairtune.pair.pair import Layer, Pair
from pairtune.tuners.full import Full
from pairtune.tuners.ladder import Ladder
from pairtune.tuners.lora import LoRA

WORDS = "cat dog sat ran red blue green big small man woman child book tree river".split()


@pytest.fixture
def task(tmp_path):
    """Two classes that a word decides; one row stands there twice."""
    generator = np.random.default_rng(0)
    rows = []
    for i in range(24):
        words = list(generator.choice(WORDS, size=3 + i % 4))
        rows.append({"text": " ".join([*words, "good" if i % 2 else "bad"]), "label": "yes" if i % 2 else "no"})
    rows.append(rows[0])
    folder = tmp_path / "task"
    folder.mkdir()
    for split, part in (("train", rows), ("validation", rows[:6]), ("test", rows[6:12])):
        (folder / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in part))
    return folder


def opened(model, task):
    loaded = Task.load(str(task))
    return Pair(Base.load(model, task=loaded.kind, labels=loaded.labels)), loaded


def batches_of(base):
    generator = torch.Generator().manual_seed(0)
    lengths = [[5, 7, 4], [6, 3]]
    found = []
    for part in lengths:
        ids = torch.zeros(len(part), max(part), dtype=torch.long)
        for row, length in enumerate(part):
            ids[row, :length] = torch.randint(4, 60, (length,), generator=generator)
        batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
        if base.family == "causal":
            batch["labels"] = ids.masked_fill(ids == 0, -100)
        found.append(batch)
    return found


def by_rows(base, layers, batches, outputs):
    """K_l from one ordinary backward pass a row and output, in the order of the rows."""
    parameters = {name: base.parameters[name] for names in layers.values() for name in names}
    base.model.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    gradients = {layer: [] for layer in layers}
    for batch in batches:
        for row in range(len(batch["input_ids"])):
            real = batch["attention_mask"][row].bool()
            values = outputs({name: tensor[row : row + 1, real] for name, tensor in batch.items()})[0]
            per_output = [
                torch.autograd.grad(v, list(parameters.values()), retain_graph=True, allow_unused=True) for v in values
            ]
            for layer, names in layers.items():
                picked = [
                    torch.cat(
                        [
                            g.flatten()
                            for name, g in zip(parameters, grads, strict=True)
                            if name in names and g is not None
                        ]
                    )
                    for grads in per_output
                ]
                gradients[layer].append(torch.stack(picked))
    base.model.requires_grad_(False)
    stacked = {layer: torch.stack(rows).double() for layer, rows in gradients.items()}
    return {layer: torch.einsum("ikp,jkp->ij", rows, rows).numpy() for layer, rows in stacked.items()}


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_bert"])
@pytest.mark.parametrize("road", ["by gradients", "by tokens"])
def test_kernels_are_those_of_gradients_taken_row_by_row(model, road, task, request, monkeypatch):
    pair, loaded = opened(request.getfixturevalue(model), task)
    base = pair.base
    if road == "by tokens":
        monkeypatch.setattr(tangent_kernel, "_by_gradient", lambda parts, *_: tangent_kernel._by_token(parts))
    else:
        monkeypatch.setattr(
            tangent_kernel,
            "_by_token",
            lambda parts: tangent_kernel._by_gradient(
                parts, sum(len(x) for x, *_ in parts), parts[0][0].shape[-1], parts[0][1].shape[-1]
            ),
        )
        monkeypatch.setattr(tangent_kernel, "MOST", 100)
    layers, batches, outputs = candidates(base, halves=True), batches_of(base), outputs_of(base, loaded)
    found = tangent_kernel.kernels(modules_of(base, layers), batches, outputs, base.blocks[0][1])
    expected = by_rows(base, layers, batches, outputs)
    assert found.keys() == expected.keys() and len(found) == 2 * len(base.blocks)
    for layer, kernel in expected.items():
        assert np.allclose(found[layer], kernel, rtol=2e-4, atol=2e-5 * np.abs(kernel).max()), layer
        assert np.linalg.eigvalsh(found[layer])[0] > -1e-4 * np.trace(kernel)


def test_a_module_that_runs_twice_counts_once_with_both():
    torch.manual_seed(0)

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.norm, self.out = torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.out(torch.tanh(self.inner(self.norm(torch.tanh(self.inner(x)))))).sum(1)

    model = Twice().requires_grad_(False)
    batches = [{"input_ids": torch.randn(3, 5, 4)}, {"input_ids": torch.randn(2, 2, 4)}]
    layers = {"one": {"inner": model.inner, "norm": model.norm}}
    found = tangent_kernel.kernels(layers, batches, lambda batch: model(batch["input_ids"]), model)["one"]
    rows = []
    model.requires_grad_(True)
    for batch in batches:
        for x in batch["input_ids"]:
            own = []
            for value in model(x[None])[0]:
                wanted = [*model.inner.parameters(), *model.norm.parameters()]
                own.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, wanted, retain_graph=True)]))
            rows.append(torch.stack(own))
    stacked = torch.stack(rows)
    assert np.allclose(found, torch.einsum("ikp,jkp->ij", stacked, stacked).numpy(), rtol=1e-4, atol=1e-5)


def test_the_spectrum_and_its_bounds():
    generator = np.random.default_rng(1)
    parts = [(lambda j: j @ j.T)(generator.normal(size=(6, width)) * size) for width, size in ((8, 1.0), (3, 0.3))]
    low, high = kernel_spectrum.bounds(*parts)
    exact = kernel_spectrum.spectrum(parts[0] + parts[1])
    assert bool((low <= exact + 1e-9).all()) and bool((exact <= high + 1e-9).all())
    together = kernel_spectrum.facts(parts[0] + parts[1])
    assert together.condition <= kernel_spectrum.condition_bound(*parts)
    assert np.isclose(together.trace, np.trace(parts[0] + parts[1])) and 1 <= together.effective_rank <= 6
    # Fewer weights than rows: without the addition the condition would be infinite.
    assert 1e5 < kernel_spectrum.facts(parts[1]).condition < 1e8
    assert (
        np.isclose(kernel_spectrum.facts(np.eye(6)).condition, 1.0)
        and kernel_spectrum.facts(np.eye(6)).effective_rank == 6
    )
    targets = generator.normal(size=(6, 1))
    assert np.isclose(kernel_spectrum.facts(targets @ targets.T, targets).alignment, 1.0)
    # Scale says nothing about condition, rank and alignment.
    one, other = (kernel_spectrum.facts(parts[0] * scale, targets) for scale in (1.0, 1e-6))
    assert np.isclose(one.condition, other.condition) and np.isclose(one.alignment, other.alignment)


def test_kernel_regression_is_scikit_learn_s():
    generator = np.random.default_rng(2)
    train, asked = generator.normal(size=(7, 4)), generator.normal(size=(3, 4))
    residual = generator.normal(size=(7, 2))
    found = kernel_spectrum.regression(train @ train.T, asked @ train.T, residual, 0.7)
    oracle = KernelRidge(alpha=0.7, kernel="precomputed").fit(train @ train.T, residual)
    assert np.allclose(found, oracle.predict(asked @ train.T))


def test_forward_selection_adds_the_layer_that_helps_most():
    kernels = {"flat": np.eye(4), "steep": np.diag([100.0, 1, 1, 1]), "gap": np.diag([0.0, 99, 99, 99])}
    steps = kernel_spectrum.forward_selection(kernels)
    assert steps[0].layer == "flat"
    assert steps[0].bound is None and all(step.condition <= (step.bound or 0.0) + 1e-9 for step in steps[1:])
    best_pair = min(("steep", "gap"), key=lambda name: np.linalg.cond(kernels["flat"] + kernels[name]))
    assert steps[1].layer == best_pair


@pytest.mark.parametrize("model", ["tiny_llama", "tiny_bert"])
def test_the_report_leaves_the_base_alone_and_counts_rows_once(model, task, request):
    pair, loaded = opened(request.getfixturevalue(model), task)
    before = pair.base.checksum()
    found = ntk(pair, loaded, rows=25)
    assert found.rows == 24 and found.moved is None and pair.base.checksum() == before
    assert not any(p.requires_grad for p in pair.base.model.parameters())
    assert len(found.layers) == len(pair.base.blocks) == len(found.chosen)
    conditions = [one.facts.condition for one in found.layers.values()]
    assert conditions == sorted(conditions) and np.isclose(sum(one.share for one in found.layers.values()), 1.0)
    assert found.outputs == 1 and found.new_head == (model == "tiny_bert")
    text = str(found)
    assert "condition" in text and ("random" in text) == found.new_head
    assert "<html" in found.html()


def test_how_linear_a_change_is_falls_with_its_size(tiny_llama, task):
    loaded = Task.load(str(task))
    errors = []
    for size in (1e-3, 1e-1):
        base = Base.load(tiny_llama)
        tuner = Full()
        installed = tuner.install(base, base.model)
        torch.manual_seed(0)
        with torch.no_grad():
            for _, parameter in installed.trainable():
                parameter.add_(size * torch.randn_like(parameter))
        pair = Pair(base, [Layer(installed, lambda tuner=tuner, installed=installed: tuner.extract(installed))])
        moved = ntk(pair, loaded, rows=8).moved
        assert list(moved.error) == sorted(moved.error) and moved.error[0.1] < moved.error[1.0]
        errors.append(moved.error[1.0])
    assert errors[0] < 0.05 < 0.2 < errors[1]


def test_an_adapter_has_a_direction_and_a_side_network_has_none(tiny_bert, task):
    pair, loaded = opened(tiny_bert, task)
    base, batches = pair.base, batches_of(pair.base)
    installed = LoRA(r=2).install(base, base.model)
    torch.manual_seed(0)
    for _, parameter in installed.trainable():
        torch.nn.init.normal_(parameter, std=0.05)
    tuner = LoRA(r=2)
    moved = Pair(base, [Layer(installed, lambda: tuner.extract(installed))])
    found = linearity(moved, batches, outputs_of(base, loaded))
    assert found is not None and 0 < found.error[0.1] < found.error[1.0]
    side = Base.load(tiny_bert, task="classification", labels=["no", "yes"])
    beside = Ladder(reduction=4)
    ladder = beside.install(side, side.model)
    assert (
        linearity(Pair(side, [Layer(ladder, lambda: beside.extract(ladder))]), batches, outputs_of(side, loaded))
        is None
    )


def test_rows_that_are_alike_count_once():
    ids = torch.tensor([[5, 6, 0], [5, 6, 7], [5, 6, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    found, kept = different([batch, {name: tensor[1:] for name, tensor in batch.items()}])
    assert kept == [0, 1] and len(found) == 1 and len(found[0]["input_ids"]) == 2


def test_the_verb_prints_a_table_or_json_and_refuses_what_it_cannot_read(tiny_llama, task, capsys, tmp_path):
    dispatch(["inspect", "ntk", str(tiny_llama), "--data", str(task), "--rows", "6", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "ntk/1" and found["rows"] == 6 and set(found["layers"]) == {"0", "1", "2", "3"}
    dispatch(["inspect", "ntk", str(tiny_llama), "--data", str(task), "--rows", "6", "--halves"])
    assert "3 attention" in capsys.readouterr().out
    assert dispatch(["inspect", "wrapper", str(tiny_llama), "--data", str(task)]) == 2
    assert "ntk" in capsys.readouterr().err
    with pytest.raises(InputError, match="nothing-here"):
        dispatch(["inspect", "ntk", str(tmp_path / "nothing-here"), "--data", str(task)])
