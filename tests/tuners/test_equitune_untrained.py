"""The modes of `equitune` that train nothing: from a command to a pair that is evaluated, saved and loaded."""

import json

import pytest
import torch
from tests.cli.typed import call
from tests.data.media_files import photos

from pairtune.analysis.answers import gather
from pairtune.data.task import Task
from pairtune.errors import InputError
from pairtune.pair.pair import Pair
from pairtune.training.run import tune

WORDS = ["cat", "dog", "man", "tree"]


@pytest.fixture
def texts(tmp_path):
    rows = [{"text": f"{word} is {'red' if i % 2 else 'small'}", "label": "no" if i % 2 else "yes"}
            for i, word in enumerate(WORDS * 3)]  # fmt: skip
    (tmp_path / "texts").mkdir()
    for split in ("train", "validation", "test"):
        (tmp_path / "texts" / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path / "texts"


def test_a_model_as_it_is_is_made_equivariant_by_one_command(tiny_llama, texts, tmp_path, capsys):
    out = tmp_path / "pair"
    words = ["tune", "--base", str(tiny_llama), "--data", str(texts), "--tuner", "equitune", "--out", str(out)]
    words += ["--tuner.group", "words", "--tuner.cycles", json.dumps([WORDS]), "--tuner.train", "nothing"]
    code, _, problem = call(capsys, *words)
    assert code == 2 and "mode lambda have to be trained" in problem
    code, said, _ = call(capsys, *words, "--tuner.mode", "equizero")
    assert code == 0 and "none: nothing trains" in said
    pair = Pair.load(out)
    record = pair.top.record["training"]
    assert record["steps"] == 0 and record["metrics"]["validation loss"] > 0 and not pair.trainable()
    sides = gather({"variant": pair}, Task.load(str(texts)), ["test"]).splits["test"].sides
    cat, man = (sides["variant"].outputs[i] for i in (0, 2))
    assert cat == pytest.approx(man, abs=1e-5)
    assert abs(sides["base"].outputs[0] - sides["base"].outputs[2]).max() > 1e-3
    assert call(capsys, *words, "--tuner.mode", "equizero", "--resume")[0] == 0


def test_a_new_head_is_tuned_before_answers_are_selected(tiny_vit, tmp_path):
    root = photos(tmp_path / "photos", {"train": 8, "validation": 4, "test": 4})
    select = {"name": "equitune", "group": "hflip", "mode": "equitune", "train": "nothing"}
    config = {"base": str(tiny_vit), "data": str(root), "training": {"epochs": 1}}
    with pytest.raises(InputError, match="new head that no stage has trained"):
        tune({**config, "tuner": select})
    pair = tune({**config, "stages": [{"tuner": "head"}, {"tuner": select}], "out": str(tmp_path / "pair")})
    assert [layer.record["training"]["steps"] > 0 for layer in pair.layers] == [True, False]
    x = torch.randn(3, 3, 16, 16)
    assert torch.allclose(pair.model(pixel_values=x).logits, pair.model(pixel_values=x.flip(-1)).logits, atol=1e-5)
    assert torch.equal(Pair.load(tmp_path / "pair").model(pixel_values=x).logits, pair.model(pixel_values=x).logits)
