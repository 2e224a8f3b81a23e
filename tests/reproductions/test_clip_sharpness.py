"""The reproduction `clip-sharpness`: its images, what its judge makes of known numbers, its whole code path, tiny."""

import json

import numpy as np
import pytest
import torch

from pairtune.reproductions import clip_sharpness, pages
from pairtune.reproductions.frame import Results, report
from pairtune.reproductions.sharpness import images, judge, measure
from pairtune.reproductions.sharpness.images import OOD, Set

TINY = {
    "seeds": 2, "rates": [1e-3, 3e-3, 1e-2], "width": 8, "blocks": 2, "pretraining": 70, "pretraining_epochs": 1,
    "train": 64, "epochs": 1, "validation": 8, "test": 6, "sharpness_images": 8, "steps": 2,
}  # fmt: skip


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """A data folder as the real one is: digits are bars at ten heights."""
    folder, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, sizes in (("mnist_small", {"train": 140, "test": 20}), ("fashion_mnist_mini", {"train": 20})):
        (folder / name).mkdir()
        for part, size in sizes.items():
            y = np.arange(size) % 10
            x = generator.integers(0, 60, (size, 28, 28), dtype=np.uint8)
            for i, row in enumerate(y):
                x[i, 2 * row + 4] = 250
            np.savez(folder / name / f"{part}.npz", x=x, y=y.astype(np.uint8))
    (folder / "omniglot_small").mkdir()
    x = generator.integers(0, 256, (10, 28, 28), dtype=np.uint8)
    np.savez(folder / "omniglot_small" / "background_small1.npz", x=x, y=np.arange(10, dtype=np.int16))
    return folder


@pytest.fixture
def settings(image_folder):
    return clip_sharpness.REPRODUCTION.settings | TINY | {"data": str(image_folder)}


def test_no_image_is_on_two_sides(settings):
    seen = {"pretraining": images.pretraining(settings), **images.tests(settings)}
    seen["tuning"] = Set(*(torch.cat([getattr(images.tuning(settings, s), side) for s in (0, 1)]) for side in "xy"))
    prints = {name: {one.numpy().tobytes() for one in rows.x} for name, rows in seen.items()}
    plain = [name for name in prints if not name.startswith("ood/") or name == "ood/other-font"]
    for i, one in enumerate(plain):
        assert len(prints[one]) > 3
        for other in plain[i + 1 :]:
            assert not prints[one] & prints[other], (one, other)
    assert not torch.equal(images.tuning(settings, 0).x, images.tuning(settings, 1).x)
    assert sorted(seen["pretraining"].y.unique().tolist()) == list(range(30))


def test_distortions_do_what_they_say():
    generator, x = torch.Generator().manual_seed(0), torch.zeros(3, 1, 28, 28)
    x[:, :, 10:18, 4:24] = 1.0
    assert torch.allclose(images.distorted(x, ["inverted"] * 3, generator), 1 - x)
    mixed = images.distorted(x, ["plain", "edges", "rotated"], generator)
    assert torch.equal(mixed[0], x[0])
    assert mixed[1, 0, 14, 14] == 0 and mixed[1, 0, 10, 14] > 0.5  # inside, and on the outline
    assert mixed[2, 0, 13:15, 13:15].mean() == pytest.approx(1, abs=1e-3) and mixed[2, 0, 14, 5] < 0.5
    noisy = images.distorted(x, ["noisy"] * 3, generator)
    assert noisy.min() >= 0 and noisy.max() <= 1 and noisy[0, 0, 0].std() > 0.05
    assert images.augmented(x, generator).sum() == pytest.approx(float(x.sum()), rel=0.4)


def runs(count=12, seed=0):
    """Models whose stragglers' sharpness falls with OOD accuracy, and whose other measures do not."""
    generator = np.random.default_rng(seed)
    found = []
    for i in range(count):
        layers = {f"{n}": float(value) for n, value in enumerate(generator.random(8))}
        layers["3"] = 2.0 - i / count
        one = {"lr": (1e-4, 1e-3)[i % 2], "OOD": i / count, "gain": float(generator.random()), "layers": layers}
        one |= {name: float(generator.random()) for name in judge.MEASURES}
        found.append(one | {"chosen": ["3"], "stragglers": layers["3"]})
    return found


def test_the_judge_finds_what_is_there(monkeypatch):
    monkeypatch.setattr(judge, "DRAWS", 200)
    facts = runs()
    table = judge.table(facts)
    assert table["stragglers"]["tau, OOD"] == pytest.approx(-1)
    assert table["stragglers"]["interval"] == pytest.approx([-1, -1])
    assert table["stragglers"]["tau within rates"] == pytest.approx(-1)
    assert abs(table["global"]["tau, OOD"]) < 0.6
    found = judge.permuted(facts)
    assert found["p, tau"] == pytest.approx(1 / 201) and found["tau, stragglers"] == pytest.approx(-1)
    assert abs(found["tau, random layers (mean)"]) < 0.5
    of_seed = judge.of_seed(facts, 50)
    assert of_seed["stragglers"] == pytest.approx(1) and of_seed["random layers"] < 0.9
    shuffled = [
        one | {"stragglers": float(x)} for one, x in zip(facts, np.random.default_rng(1).random(12), strict=True)
    ]
    assert judge.permuted(shuffled)["p, tau"] > 0.05


def test_tau_within_rates_is_blind_to_the_rates():
    facts = runs()
    for one in facts:
        one["OOD"] += one["lr"] * 1e6
    driven = [one["lr"] for one in facts]
    assert judge.tau(driven, [one["OOD"] for one in facts]) > 0.7
    assert judge.within(facts, driven) == 0
    assert judge.tau([1, 1], [1, 2]) == 0


def test_the_controls_are_chosen_on_validation():
    accuracy = np.tile(np.linspace(0.4, 0.9, 11)[:, None], (1, 200)) > np.linspace(0, 1, 200)[None]
    said = {name: {"accuracy": accuracy.astype(float)} for name in ("validation", "test", *OOD)}
    assert measure.smaller(said, 10) == 10
    accuracy[7:] = accuracy[10]
    said["validation"]["accuracy"] = accuracy.astype(float)
    assert measure.smaller(said, 10) == 7
    assert measure.gain_of(said, 10) == pytest.approx(0)


def test_the_whole_path_of_the_code_and_its_resumption(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "DRAWS", 20)
    results, second = Results.open(tmp_path, settings), Results.open(tmp_path / "predictors", settings)
    clip_sharpness.run(results, settings)
    clip_sharpness.predict(second, settings, results)
    files = sorted((tmp_path / "runs").iterdir())
    assert len(files) == 2 * 3 * 2
    one = json.loads((tmp_path / "runs" / "0.01-augmented-1.json").read_text())
    facts = one["facts"]
    assert len(facts["layers"]) == 4 and facts["chosen"] and facts["kept"] in measure.KEPT
    assert facts["stragglers"] == pytest.approx(np.mean([facts["layers"][name] for name in facts["chosen"]]))
    assert facts["global"] >= 0 and facts["oracle gain"] >= max(facts["gain"], 0)
    assert "thinned others" in one["outcomes"] and set(one["outcomes"]["picked"]) == {"test", *OOD}
    found = report(clip_sharpness.REPRODUCTION, results, {"predictors": second})
    assert found["verdict"] and len(found["more"]["predictors"]["parts"]) == 6
    pages.publish(found, "clip-sharpness", tmp_path / "docs")
    assert "predictors" in (tmp_path / "docs" / "reproductions.md").read_text()
    assert len(results.outcomes["picked, large rate"][0]["ood/edges"]) == 2 * 6
    assert second.notes["permutation of the layers"]["draws"] == 20
    before, outcomes = one, json.loads(json.dumps(results.outcomes))
    files[-1].unlink()
    clip_sharpness.run(Results.open(tmp_path, settings), settings)
    again = Results.open(tmp_path, settings)
    assert json.loads((tmp_path / "runs" / "0.01-augmented-1.json").read_text()) == before
    assert json.loads(json.dumps({a: {str(s): v for s, v in o.items()} for a, o in again.outcomes.items()})) == outcomes
