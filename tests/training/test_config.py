"""One configuration from three places, and every fault in one message."""

import json
import subprocess
import sys

import pytest

from pairtune.errors import ConfigError, InputError
from pairtune.training.config import RunConfig, Training, merged

GOOD = {"base": "zoo:tiny-lm", "data": "demo", "constraint": ["freeze"], "objective": "lm"}


def test_yaml_dotted_mapping_and_python_give_the_same_run(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "base: zoo:tiny-lm\ndata: demo\nobjective: lm\nconstraint: {l2sp: {weight: 1e-2}, freeze: }\n"
        "training: {lr: 1e-3, max_steps: 12}\nseed: 3\n"
    )
    # What the dotted flags --constraint.l2sp.weight 1e-2 --constraint freeze ... become.
    dotted = {
        "base": "zoo:tiny-lm",
        "data": "demo",
        "objective": {"name": "lm"},
        "constraint": {"l2sp": {"weight": 0.01}, "freeze": {}},
        "training": {"lr": 0.001, "max_steps": 12},
        "seed": 3,
    }
    assert RunConfig.read(path) == RunConfig.of(dotted)
    assert RunConfig.read(path, {"training": {"lr": 2e-3}}).training.lr == 2e-3
    assert RunConfig.read(path, {"training": {"lr": 2e-3}}).training.max_steps == 12


def test_json_round_trip():
    config = RunConfig.of({**GOOD, "stages": [{"training": {"epochs": 1}}, {"constraint": {"kl": {"weight": 0.5}}}]})
    assert RunConfig.of(json.loads(config.to_json())) == config


def test_every_fault_is_in_one_message_with_the_nearest_names():
    with pytest.raises(ConfigError) as caught:
        RunConfig.of(
            {
                "base": 3,
                "dta": "demo",
                "objective": "clasification",
                "constraint": {"l2sp": {"wieght": 1, "head_weight": -1}, "kl2": {}},
                "training": {"batchsize": 4, "lr": 0, "schedule": "cosinus"},
                "stages": [{"training": {"epoch": 1}, "objective": {"name": "lm", "x": 1}}],
            }
        )
    text = str(caught.value)
    for part in (
        "base: input should be a valid string (found 3)",
        "data: field required",
        "dta: there is no such setting; did you mean data?",
        "objective: there is no objective 'clasification'; did you mean classification?",
        "constraint.l2sp.wieght: there is no such setting; did you mean weight?",
        "constraint.l2sp.head_weight: input should be greater than or equal to 0 (found -1)",
        "constraint.kl2: there is no constraint 'kl2'; did you mean kl?",
        "training.batchsize: there is no such setting; did you mean batch_size?",
        "training.lr: input should be greater than 0 (found 0)",
        "training.schedule: input should be 'linear', 'cosine' or 'constant'",
        "stages.0.training.epoch: there is no such setting; did you mean epochs?",
        "stages.0.objective.x: there is no such setting",
    ):
        assert part in text, text


def test_stages_take_from_the_run_what_they_do_not_say():
    config = RunConfig.of(
        {
            **GOOD,
            "training": {"batch_size": 4, "lr": 1e-3},
            "stages": [{"training": {"lr": 1e-2}}, {"objective": "seq2seq", "constraint": {}}],
        }
    )
    first, second = config.steps()
    assert (first.training.lr, first.training.batch_size, first.objective.name) == (1e-2, 4, "lm")
    assert (second.training.lr, second.objective.name, second.constraint) == (1e-3, "seq2seq", {})
    assert list(first.constraint) == ["freeze"]


def test_another_methods_name_drops_the_settings_of_the_first():
    run = {"tuner": {"name": "lora", "r": 8}, "constraint": ["kl"]}
    assert merged(run, {"tuner": {"alpha": 2}})["tuner"] == {"name": "lora", "r": 8, "alpha": 2}
    assert merged(run, {"tuner": {"name": "full"}})["tuner"] == {"name": "full"}
    assert merged({"tuner": "lora"}, {"tuner": {"r": 4}})["tuner"] == {"name": "lora", "r": 4}
    assert merged({"constraint": "kl"}, {"constraint": {"l2sp": {}}})["constraint"] == {"kl": {}, "l2sp": {}}


def test_a_file_that_is_no_run_is_named(tmp_path):
    with pytest.raises(InputError, match=r"missing\.yaml: cannot be read"):
        RunConfig.read(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match=r"list\.yaml: expected a mapping"):
        RunConfig.read(tmp_path / "list.yaml")


def test_every_setting_has_a_description_and_nothing_heavy_is_imported():
    for model in (Training, RunConfig):
        assert all(field.description for field in model.model_fields.values())
    code = "import sys, pairtune.training.config; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
