"""`pairtune merge` as people type it: two tasks' pairs in one model, other forms, methods with data, wrong inputs."""

import json
import re
import shutil

import pytest
import torch
import yaml
from tests.cli.typed import call
from tests.merging.models import moved

import pairtune
from pairtune.pair.checkpoint import Checkpoint
from pairtune.pair.files import write_safetensors

ANIMALS = [("the cat sat on the mat", "cat"), ("a cat ran", "cat"), ("the dog ran", "dog"), ("a dog sat", "dog")]
PLACES = [("the man in the house", "house"), ("a house", "house"), ("a tree by the river", "river"), ("river", "river")]
KINDS = ("linear", "ties", "task-arithmetic")


def task(place, rows):
    place.mkdir(parents=True)
    for name, times in (("train", 3), ("validation", 2), ("test", 2)):
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows * times]
        (place / f"{name}.jsonl").write_text("\n".join(lines))
    return place


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    place = tmp_path_factory.mktemp("tasks")
    return task(place / "animals", ANIMALS), task(place / "places", PLACES)


@pytest.fixture(scope="module")
def pairs(tiny_llama, tasks, tmp_path_factory):
    """One pair a task, of all weights and of a LoRA."""
    place = tmp_path_factory.mktemp("pairs")
    for data, tuner in zip(tasks, ("full", "lora"), strict=True):
        config = {"base": str(tiny_llama), "data": str(data), "tuner": tuner}
        training = {"lr": 0.01, "epochs": 6}
        pairtune.tune({**config, "training": training, "out": str(place / data.name)})
    return place / "animals", place / "places"


def words(pairs, *more):
    return ["merge", *(word for one in pairs for word in ("--model", one)), *more]


def test_two_tuned_pairs_are_merged_and_scored_on_both_tasks(pairs, tasks, tiny_llama, tmp_path, capsys):
    for method in KINDS:
        code, out, err = call(capsys, *words(pairs, "--method", method, "--out", tmp_path / method))
        assert code == 0 and "outputs on 4 prompts within" in out, err
    for own, data in zip(pairs, tasks, strict=True):
        merged = [tmp_path / method for method in KINDS]
        line = ["eval", own, *merged, "--base", tiny_llama, "--data", data, "--split", "test", "--json"]
        code, out, err = call(capsys, *line)
        assert code == 0, err
        found = {name: one["nll"] for name, one in json.loads(out)["metrics"]["test"].items()}
        assert len(found) == 2 + len(KINDS)
        assert all(found[str(one)] < found["base"] for one in (own, *merged)), data.name


def test_other_forms_of_a_delta(pairs, tmp_path, capsys):
    line = ["merge", "--model", pairs[0], "--to", "delta", "--out"]
    code, out, err = call(capsys, *line, tmp_path / "few", "--sparsify", 0.1, "--sparsify-by", "layer")
    assert code == 0, err
    assert re.search(r"kept +the largest [\d,]+ of [\d,]+ entries in each layer", out)
    assert re.search(r"model.layers.0 +\d+\.\d%", out)
    code, out, err = call(capsys, *line, tmp_path / "bits", "--sign", "--json")
    card = json.loads(out)
    assert code == 0 and card["form"] == {"sign": True} and card["layers"]["model.layers.0"] > 0
    assert card["layers"] == json.loads((tmp_path / "bits" / "merge.json").read_text())["layers"]
    code, out, err = call(
        capsys, "merge", "--model", tmp_path / "bits", "--to", "peft", "--rank", 2, "--out", tmp_path / "p"
    )
    assert code == 0 and re.search(r"model.layers.3 +\d+\.\d%", out), err


def test_methods_that_look_at_data(pairs, tasks, tmp_path, capsys):
    both = ["--data", tasks[0], "--data", tasks[1], "--rows", 3]
    code, out, err = call(capsys, *words(pairs, "--method", "regmean", *both, "--out", tmp_path / "out"))
    assert code == 0, err
    assert re.search(r"model +animals|model .*animals, weight 1, on 3 rows of animals", out)
    card = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert [one["task"] for one in card["samples"]] == ["animals", "places"]


def test_a_mergekit_file_adapted_to_local_folders(tiny_llama, tmp_path, capsys):
    for seed, name in enumerate(("chat", "code")):
        moved(tiny_llama, tmp_path / name, seed)
    (tmp_path / "config.yml").write_text(f"""
models:
  - model: {tmp_path / "chat"}
    parameters:
      density: [0.9, 0.5, 0.1]  # from the first layer to the last
      weight: 0.8
  - model: {tmp_path / "code"}
    parameters:
      density: 0.4
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: {tiny_llama}
parameters:
  normalize: true
  int8_mask: true
dtype: float16
""")
    code, _, err = call(capsys, "merge", tmp_path / "config.yml", "--out", tmp_path / "out")
    assert code == 0, err
    found = Checkpoint(tmp_path / "out")
    assert found["model.norm.weight"].dtype == torch.float16
    base, code_model = Checkpoint(tiny_llama), Checkpoint(tmp_path / "code")
    name = "model.layers.3.self_attn.q_proj.weight"  # there only the first model counts, with its largest tenth
    kept = (found[name].float() - base[name]).abs() > 1e-3
    assert 0.05 < float(kept.float().mean()) < 0.15
    assert not torch.allclose(found[name].float(), code_model[name], atol=1e-3)


@pytest.fixture
def wrong(pairs, tasks, tiny_llama, tmp_path, capsys):
    """Run a command that must be refused with exit code 2 in one message, and give that."""

    def run(*line):
        code, out, err = call(capsys, *line, "--out", tmp_path / "out")
        assert code == 2, (out, err)
        assert not (tmp_path / "out").exists() and out == ""
        message = err[err.index("error: ") :]
        assert "Traceback" not in message
        return message

    return run


def test_wrong_data_flags(wrong, pairs, tasks, tmp_path):
    fisher = words(pairs, "--method", "fisher")
    assert "give one --data for each of the 2 models, in their order (found none)" in wrong(*fisher)
    one = wrong(*fisher, "--data", tasks[0])
    assert "--data: give one for each of the 2 models, in their order; found 1" in one
    assert "ties: looks at no data; leave --data out, or take a method that does: fisher, regmean" in wrong(
        *words(pairs, "--method", "ties", "--data", tasks[0], "--data", tasks[1])
    )
    assert "rows: are those of --data" in wrong(*words(pairs, "--rows", 5))
    assert "--metric: belongs to --search" in wrong(*words(pairs, "--metric", "accuracy"))
    swapped = wrong(*fisher, "--data", tasks[1], "--data", tasks[0])
    assert re.search(r"train.jsonl, line \d+: .*'(house|river)'", swapped)
    assert "nowhere" in wrong(*fisher, "--data", tasks[0], "--data", "nowhere")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"models": [str(one) for one in pairs], "method": "fisher"}))
    assert "every model names its own" in wrong("merge", recipe, "--data", tasks[0])


def test_wrong_models(wrong, pairs, tasks, tiny_llama, tiny_bert, tmp_path):
    good, broken, short = (moved(tiny_llama, tmp_path / name, 1) for name in ("good", "broken", "short"))
    assert "ties: works on what the models add to their base; give it with --base" in wrong(
        *words([good, good], "--method", "ties")
    )
    assert "a delta stands on a base; give it with --base" in wrong("merge", "--model", good, "--to", "delta", "--sign")
    tensors = {name: tensor.clone() for name, tensor in Checkpoint(broken).items()}
    tensors["model.norm.weight"][0] = float("nan")
    write_safetensors(broken / "model.safetensors", tensors, {"format": "pt"})
    assert "NaN or infinite values in model.norm.weight" in wrong(*words([good, broken]))
    both = ["--data", tasks[0], "--data", tasks[0], "--rows", 2]
    assert "NaN or infinite values in model.norm.weight" in wrong(*words([good, broken], "--method", "fisher", *both))
    file = short / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert re.search(r"short/model.safetensors: truncated: its tensors end at byte", wrong(*words([good, short])))
    other = shutil.copytree(pairs[0], tmp_path / "other")
    card = json.loads((other / "pair.json").read_text())
    card["base"]["source"] = "someone/else"
    (other / "pair.json").write_text(json.dumps(card))
    assert "the deltas name different bases" in wrong(*words([pairs[1], other]))
    assert "was made on" in wrong(*words(pairs, "--base", good))
    assert "not of one base" in wrong(*words([good, tiny_bert]))


def test_wrong_vocabularies(wrong, tiny_llama, tmp_path):
    good, other = (moved(tiny_llama, tmp_path / name, 1) for name in ("good", "other"))
    about = json.loads((other / "tokenizer.json").read_text())
    vocabulary = about["model"]["vocab"]
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]
    (other / "tokenizer.json").write_text(json.dumps(about))
    said = wrong(*words([good, other]))
    assert re.search(r"the token '(cat|dog)' has the id \d+, in .* it has \d+", said)


def test_wrong_forms(wrong, pairs):
    one = ["merge", "--model", pairs[0]]
    assert "sign: is a form of a delta, --to delta, not of --to merged" in wrong(*one, "--sign")
    assert "sparsify: expected a share above 0" in wrong(*one, "--to", "delta", "--sparsify", 7)
    assert "sparsify_by: says over what" in wrong(*one, "--to", "delta", "--sparsify-by", "layer")
    assert "dtype: has no meaning for a delta of signs" in wrong(*one, "--to", "delta", "--sign", "--dtype", "bfloat16")
    assert "max_shard_size: has no meaning for delta" in wrong(*one, "--to", "delta", "--max-shard-size", "1GB")
    assert "--sign: has no meaning with --search" in wrong(*one, "--search", "--sign")
