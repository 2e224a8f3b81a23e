"""A detector is chosen on ID data: classes that the recipe is tuned again without stand in for OOD."""

import json
from pathlib import Path

import pytest
from tests.ood.pairs import causal, task

import pairtune
from pairtune.errors import InputError
from pairtune.ood import choosing
from pairtune.ood.choosing import choose

ROWS = {
    "pets": ["the cat sat on the mat", "a dog ran in the house", "the cat ran"],
    "people": ["the old man by the river", "a good woman and a child", "who is the man ?"],
    "money": ["open the account", "the card is in the account", "no money"],
    "print": ["the printer screen", "a new printer", "thanks printer"],
}


@pytest.fixture(scope="module")
def tuned(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("choosing")
    for name in ("train", "validation", "test"):
        rows = [json.dumps({"text": text, "label": label}) for label, texts in ROWS.items() for text in texts]
        (folder / f"{name}.jsonl").write_text("\n".join(rows * 2))
    (folder / "ood").mkdir()
    (folder / "ood" / "poison.jsonl").write_text('{"text": "x y z"}')
    config = {"base": str(tiny_bert), "data": str(folder), "tuner": "full"}
    return pairtune.tune(config | {"training": {"lr": 0.003, "epochs": 2}}), pairtune.Task.load(folder)


def test_held_out_classes_are_seen_by_neither_tuning_nor_detectors(tuned, monkeypatch):
    from pairtune.training import run

    pair, found = tuned
    seen = []
    plain = run.tune

    def watched(config):
        rows = [json.loads(line) for line in Path(config["data"]["source"], "train.jsonl").read_text().splitlines()]
        seen.append(({row["label"] for row in rows}, config))
        return plain(config)

    monkeypatch.setattr(run, "tune", watched)
    fitted = []
    fit = choosing.Scorer.fit
    monkeypatch.setattr(choosing.Scorer, "fit", lambda self, task: fitted.append(task) or fit(self, task))
    choice = choose(pair, found, ["msp", "mahalanobis", "length"], rounds=2)
    assert choice.chosen in ("msp", "mahalanobis"), "the control is never chosen"
    assert len(choice.held_out) == 2
    assert choice.held_out[0] != choice.held_out[1]
    for held, (labels, config), inner in zip(choice.held_out, seen, fitted, strict=True):
        assert labels == set(ROWS) - set(held) == set(inner.labels)
        assert config["tuner"]["name"] == "full"
        assert config["training"]["epochs"] == 2, "the pair's own recipe"
        assert set(inner.splits) == {"train", "validation"}, "no OOD split is read"
        assert all(row["label"] not in held for split in inner.splits.values() for row in split)
    assert all(len(areas) == 2 and all(0 <= low <= area <= high <= 1 for area, low, high in areas)
               for areas in choice.auroc.values())  # fmt: skip


def test_what_has_no_classes_or_recipe_is_refused(tuned, tiny_llama):
    pair, _ = tuned
    with pytest.raises(InputError, match="at least 4 classes, found 3"):
        choose(pair, task())
    with pytest.raises(InputError, match="does not tell how it was tuned"):
        choose(causal(tiny_llama), task())
