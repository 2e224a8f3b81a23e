"""The code paths of the reproductions of CorDA, side tuning and linearised tuning, on tiny models and few rows."""

import gzip
import json
import random

import numpy as np
import pytest
import torch

from pairtune.pair.base import Base
from pairtune.reproductions import corda, linearized_finetuning, qst
from pairtune.reproductions.frame import execute, load, names
from pairtune.reproductions.oriented.truncation import plain, without_smallest
from pairtune.reproductions.tangent.descent import Problem

WORDS = "the cat dog sat ran on red blue green big small man woman child book tree river".split()


@pytest.fixture
def data(tmp_path):
    """The sets, made up and small, as the data folder has them."""
    draw = random.Random(0)

    def sentence(length):
        return " ".join(draw.choice(WORDS) for _ in range(length))

    def lines(path, rows):
        path.parent.mkdir(exist_ok=True, parents=True)
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.write("\n".join(rows) + "\n")

    root = tmp_path / "data"
    answers = [json.dumps({"instruction": sentence(4), "input": "", "output": sentence(8)}) for _ in range(40)]
    for name in ("train", "valid"):
        lines(root / "instructions_small" / f"{name}.jsonl.gz", answers)
    for name in ("valid", "test"):
        lines(root / "wikitext2" / f"{name}.txt.gz", [sentence(120) for _ in range(12)])
    for name in ("train", "test"):
        rows = [json.dumps({"text": sentence(5), "label": i % 2}) for i in range(24)]
        lines(root / "movie_sentiment" / f"sst2_{name}.jsonl.gz", rows)
    return root


def small(data, base, **more):
    return {"data": str(data), "base": str(base), "seeds": 2, "train": 12, "test": 4, "steps": 4, **more}


def test_they_are_found_with_their_claims():
    assert {"corda", "qst", "linearized-finetuning"} <= set(names())
    for slug in ("corda", "qst", "linearized-finetuning"):
        assert load(slug).slug == slug and any(part.counts for part in load(slug).parts)


def test_corda_runs_and_goes_on_where_it_stopped(data, tiny_llama, tmp_path):
    changes = small(data, tiny_llama, held=4, context=8, words=24, rank=2, batch=2, rates=[1e-3, 1e-2])
    report = execute(corda.REPRODUCTION, tmp_path / "work", changes)
    assert report["verdict"] in ("holds", "holds in part", "does not hold", "undecided")
    assert set(report["numbers"]) == {corda.PLAIN, corda.ASVD, corda.KNOWN, corda.FOREIGN}
    more = report["more"]["tuning"]
    assert set(more["numbers"]) == {corda.LORA, corda.PISSA, corda.IPM, corda.KPM}
    assert more["choices"]["share of the steps to LoRA's last training loss"][corda.LORA] <= 1
    again = execute(corda.REPRODUCTION, tmp_path / "work", changes)
    assert again["parts"] == report["parts"] and again["more"]["tuning"]["parts"] == more["parts"]


def test_a_base_without_its_smallest_components_comes_back_bit_for_bit(tiny_llama):
    base = Base.load(tiny_llama)
    before = base.checksum()
    ids = torch.tensor([[1, 5, 9, 12]])
    with torch.no_grad():
        whole = base.model(ids).logits
        with without_smallest(base, plain, 0.0):
            assert torch.allclose(base.model(ids).logits, whole, atol=1e-4)
        with without_smallest(base, plain, 0.5):
            assert not torch.allclose(base.model(ids).logits, whole, atol=1e-2)
        assert torch.equal(base.model(ids).logits, whole)
    assert base.checksum() == before


def test_qst_runs(data, tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setattr(qst, "FOUR", {})  # the tiny base is narrower than four bits can hold
    changes = small(data, tiny_llama, held=4, words=24, rank=2, reduction=4, batch=2, rates=[1e-2])
    report = execute(qst.REPRODUCTION, tmp_path / "work", changes)
    numbers = report["numbers"]
    assert numbers[qst.NEAR]["T"]["mean"] == pytest.approx(1.02 * numbers[qst.QLORA]["T"]["mean"])
    assert numbers[qst.SIDE]["memory"]["mean"] < 0 and numbers[qst.POOLED]["step"]["mean"] < 0


def test_linearized_finetuning_runs(data, tiny_bert, tmp_path):
    report = execute(linearized_finetuning.REPRODUCTION, tmp_path / "work", small(data, tiny_bert, pulls=[1.0, 1000.0]))
    bound = next(part for part in report["parts"] if part["name"] == "within the bound")
    assert bound["verdict"] == "holds"
    layers = report["more"]["layers"]
    assert -1 <= layers["numbers"][linearized_finetuning.KAPPA]["loss"]["mean"] <= 1


def test_descent_is_gradient_descent_on_squares_with_a_pull(data, tiny_bert, tmp_path):
    settings = small(data, tiny_bert)
    base, train, _, _ = linearized_finetuning.problem_of(settings, tmp_path, 0)
    problem = Problem(base, linearized_finetuning.names_of(base, ["2"]), train)
    made = problem.descend(2.0, 1e-3, 3)
    parameters = {name: value.clone().requires_grad_() for name, value in problem.point.items()}
    for _ in range(3):
        loss = sum(
            0.5 * (problem.outputs(parameters, b) - y).square().sum()
            for b, y in zip(problem.batches, problem.targets, strict=True)
        )
        loss = loss + sum((p - problem.point[name]).square().sum() for name, p in parameters.items())
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        parameters = {
            name: (p - 1e-3 * g).detach().requires_grad_()
            for (name, p), g in zip(parameters.items(), gradients, strict=True)
        }
    for name, p in parameters.items():
        assert torch.allclose(made.delta[name], p.detach() - problem.point[name], atol=1e-5), name
    assert len(made.losses) == 4 and made.losses[-1] < made.losses[0]
    assert 0 < problem.linearisation_error(made.delta) < 0.5
    assert np.isfinite(made.distance)
