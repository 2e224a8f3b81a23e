"""The code paths of the reproductions on images and sound, on tiny models and few items."""

import numpy as np
import pytest
import soundfile

from pairtune.reproductions import adaptformer, ast_petl, equitune
from pairtune.reproductions.encoders.cuts import drawn
from pairtune.reproductions.frame import Results, execute, load, names
from pairtune.reproductions.turned.digits import digits, turned_task, upright_task

RATES = {"few": [1e-2], "all": [1e-3], "prompts": [1e-2], "head": [1e-2]}
QUICK = {"seeds": 1, "steps": 2, "batch": 4, "precision": "float32"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The sets, made up and small, as the data folder has them."""
    root, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name in ("mnist_small", "cifar10_small"):
        (root / name).mkdir()
    for part, size in {"train": 200, "test": 40}.items():
        x, y = generator.integers(0, 60, (size, 28, 28), dtype=np.uint8), np.arange(size, dtype=np.uint8) % 10
        for i, row in enumerate(y):
            x[i, 2 * row + 4] = 250
        np.savez(root / "mnist_small" / f"{part}.npz", x=x, y=y)
        np.savez(root / "cifar10_small" / f"{part}.npz", x=np.repeat(x[..., None], 3, -1), y=y)
    (root / "fsdd").mkdir()
    for part, takes in {"train": range(5, 25), "test": range(2)}.items():
        rows, waves = ["start,length,digit,speaker,take"], []
        for i, (take, digit) in enumerate((take, digit) for take in takes for digit in (3, 4)):
            rows.append(f"{900 * i},900,{digit},anna,{take}")
            waves.append(0.3 * np.sin(np.arange(900) * digit / 10) + generator.normal(0, 0.02, 900))
        (root / "fsdd" / f"{part}.csv").write_text("\n".join(rows) + "\n")
        soundfile.write(root / "fsdd" / f"{part}.flac", np.concatenate(waves), 8000)
    return str(root)


def test_they_are_found_with_their_claims():
    assert {"adaptformer", "ast-petl", "equitune"} <= set(names())
    assert all(any(part.counts for part in load(slug).parts) for slug in ("adaptformer", "ast-petl", "equitune"))


def test_adaptformer_runs_and_goes_on_where_it_stopped(data, tiny_vit, tmp_path):
    changes = {**QUICK, "data": data, "base": str(tiny_vit), "rates": {**RATES, "prompts": [1e-3, 1e-2]}}
    changes |= {"prompts": 2, "validation": 10, "test": 20}
    report = execute(adaptformer.REPRODUCTION, tmp_path, changes)
    assert set(report["numbers"]) == set(adaptformer.arms(report["settings"]))
    chosen, counts = report["choices"], report["choices"]["trainable numbers"]
    assert set(chosen["validation accuracy, prompts"]) == {"0.001", "0.01"}
    width, depth = 16, 3
    assert counts["AdaptFormer-64"]["adapters"] == depth * (2 * width * 64 + 64 + width)
    assert chosen["learning rate, AdaptFormer-64"] == 1e-2 and "learning rate, AdaptFormer-64, scale 1" not in chosen
    few = report["more"]["few-labels"]
    assert few["choices"]["learning rate, all weights"] == chosen["learning rate, all weights"]
    again = execute(adaptformer.REPRODUCTION, tmp_path, changes)
    assert again["parts"] == report["parts"] and again["more"]["few-labels"]["parts"] == few["parts"]


def test_ast_petl_runs_with_bottlenecks_as_large_as_its_adapters(data, tiny_ast, tmp_path, monkeypatch):
    changes = {**QUICK, "data": data, "base": str(tiny_ast), "rates": RATES, "each": 6, "kernel": 3}
    settings = ast_petl.REPRODUCTION.settings | changes | {"reduction": 8, "plain reduction": 5}
    arms = ast_petl.arms(settings)
    assert {name for part in ast_petl.REPRODUCTION.parts for name in (part.method, part.baseline)} == set(arms)
    some = (ast_petl.CONFORMER, ast_petl.ALONE, ast_petl.PLAIN, ast_petl.RESIDUAL)
    monkeypatch.setattr(ast_petl, "arms", lambda _settings: {name: arms[name] for name in some})
    results = Results.open(tmp_path, settings)
    ast_petl.run(results, settings)
    assert all(len(results.outcomes[name][0]["test"]) == 6 for name in some)
    counts = {arm: found["adapters"] for arm, found in results.notes["trainable numbers"].items()}
    assert counts[ast_petl.PLAIN] == pytest.approx(counts[ast_petl.CONFORMER], rel=0.15)
    assert counts[ast_petl.ALONE] < counts[ast_petl.CONFORMER] == counts[ast_petl.RESIDUAL]
    takes = {split: (tmp_path / "tasks" / "0" / f"{split}.csv").read_text() for split in ("train", "validation")}
    assert takes["train"].count("anna") == 12 and takes["validation"].count("anna") == 4
    assert not set(takes["train"].splitlines()[1:]) & set(takes["validation"].splitlines()[1:])


def test_equitune_runs(data, tiny_vit, tmp_path):
    changes = {**QUICK, "data": data, "base": str(tiny_vit), "each": 4, "validation": 10, "test": 16}
    changes |= {"model steps": 2, "weights steps": 2, "rates": {"model": [1e-2], "weights": [1e-2], "base": [1e-3]}}
    report = execute(equitune.REPRODUCTION, tmp_path, changes)
    by_name = {part["name"]: part for part in report["parts"]}
    assert by_name["invariant to 1e-4"]["verdict"] == "holds"
    numbers = report["numbers"]
    back = 0.3 * numbers[equitune.MODEL]["test"]["mean"] + 0.7 * numbers[equitune.MODEL]["upright"]["mean"]
    assert numbers[equitune.RECOVERED]["test"]["mean"] == pytest.approx(back)


def test_turned_digits_are_those_of_the_upright_task_and_train_on_others(data, tmp_path):
    settings = {"data": data, "each": 4, "validation": 10, "test": 16}
    assert 6 not in digits(settings, "train")[1] and 9 not in digits(settings, "train")[1]
    tasks = [make(tmp_path, settings, 1) for make in (upright_task, turned_task)]
    upright, turned = ({part: dict(np.load(task / f"{part}.npz")) for part in ("train", "test")} for task in tasks)
    assert (upright["test"]["y"] == turned["test"]["y"]).all()
    for one, other in zip(upright["test"]["x"], turned["test"]["x"], strict=True):
        assert any((np.rot90(one, turn) == other).all() for turn in range(4))
    assert not (upright["test"]["x"] == turned["test"]["x"]).all()
    assert len(turned["train"]["y"]) == 4 * len(upright["train"]["y"])
    seen = {image.tobytes() for image in upright["train"]["x"]}
    assert not seen & {image.tobytes() for image in turned["train"]["x"]}


def test_a_draw_has_as_many_of_each_class():
    y = np.repeat([1, 5], [20, 30])
    x, found = drawn((np.arange(50), y), 7, 0)
    assert np.bincount(found).tolist() == [0, 7, 0, 0, 0, 7] and len(set(x.tolist())) == 14
    assert (y[x] == found).all() and x.tolist() != drawn((np.arange(50), y), 7, 1)[0].tolist()
