"""Dotted flags become the mapping of a run file; every wrong name is answered at once, with the nearest right one."""

from __future__ import annotations

import pytest

from pairtune import reading, registry
from pairtune.cli import dotted
from pairtune.errors import ConfigError

METHOD = '''"""A method."""
class It({protocol}):
    class Settings(S):
        hidden: int = 64
        weight: float = 0.1
'''


@pytest.fixture(autouse=True)
def house(tmp_path, monkeypatch):
    for room, name in [("tuners", "levi"), ("constraints", "l2_sp"), ("constraints", "kl"), ("objectives", "lm")]:
        (tmp_path / room).mkdir(exist_ok=True)
        (tmp_path / room / f"{name}.py").write_text(METHOD.format(protocol=registry.PROTOCOLS[room]))
    monkeypatch.setattr(reading, "PACKAGE", tmp_path)
    registry.methods.cache_clear()
    yield
    registry.methods.cache_clear()


def read(line: str, **chosen):
    given = {"tuner": "levi", "constraint": [], "objective": None, **chosen}
    return dotted.read(line.split(), given, {"training": ["lr", "epochs"], "data": None})


def test_dotted_flags_are_parted_from_the_rest():
    line = "run.yaml --tuner levi --tuner.hidden 128 --training.lr=1e-3 --data.shift -1 -o out --x=a.b -- --y.z 1"
    rest, flags = dotted.split(line.split())
    assert rest == "run.yaml --tuner levi -o out --x=a.b -- --y.z 1".split()
    assert flags == ["--tuner.hidden=128", "--training.lr=1e-3", "--data.shift=-1"]


def test_a_value_may_hold_equals_signs_and_spaces():
    rest, flags = dotted.split(["--data.prompt", "Q: {q} = ?", "--data.on", "--tuner.a=b=c"])
    assert rest == []
    assert flags == ["--data.prompt=Q: {q} = ?", "--data.on", "--tuner.a=b=c"]


def test_flags_make_the_mapping_of_a_run_file():
    line = "--tuner.hidden=128 --constraint.l2-sp.weight=0.1 --training.lr=1e-3 --data.text=body --data.ood.far=x.csv"
    assert read(line) == {
        "tuner": {"hidden": 128},
        "constraint": {"l2-sp": {"weight": 0.1}},
        "training": {"lr": 0.001},
        "data": {"text": "body", "ood": {"far": "x.csv"}},
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--tuner.hiden=1", "--tuner.hiden: levi has no such setting; did you mean hidden?"),
        ("--tuner.zzz=1", "levi has no such setting (it has hidden, weight)"),
        ("--tunr.hidden=1", "--tunr: there is no such section; did you mean tuner?"),
        ("--zzz.hidden=1", "(there are tuner, constraint, objective, training, data)"),
        ("--training.epoch=1", "--training.epoch: there is no such setting; did you mean epochs?"),
        ("--constraint.l2sp.weight=1", "--constraint: there is no constraint 'l2sp'; did you mean l2-sp?"),
        ("--constraint.l2-sp.wieght=1", "--constraint.l2-sp.wieght: l2-sp has no such setting; did you mean weight?"),
        ("--constraint.kl=1", "--constraint.kl: write --constraint.METHOD.SETTING value"),
        ("--tuner.hidden", "--tuner.hidden: needs a value"),
        ("--tuner..hidden=1", "--tuner..hidden: has an empty name between its dots"),
        ("--tuner.hidden=1 --tuner.hidden=1", "--tuner.hidden: is given twice"),
        ("--data.a=1 --data.a.b=2", "--data.a.b: a already has a value"),
        ("--data.a.b=1 --data.a=2", "--data.a: is given twice"),
        ("--tuner.hidden=[1", "--tuner.hidden, line 1"),
    ],
)
def test_what_is_wrong_is_said(line: str, said: str):
    with pytest.raises(ConfigError) as caught:
        read(line)
    assert said in str(caught.value)
    assert len(caught.value.problems) == 1


def test_all_problems_stand_in_one_message():
    with pytest.raises(ConfigError) as caught:
        read("--tuner.hidden=1 --training.epoch=1 --tuner.b=", tuner="lvi", constraint=["kkl"])
    assert [line.partition(":")[0] for line in caught.value.problems] == ["--training.epoch", "--tuner", "--constraint"]


def test_names_of_a_method_not_known_yet_pass():
    assert read("--objective.anything=1") == {"objective": {"anything": 1}}


def test_section_names_are_read_from_the_class(tmp_path):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "config.py").write_text("class Training(S):\n    lr: float = 1.0\n    epochs: int = 3\n")
    assert dotted.fields("pairtune.training.config", "Training") == ["lr", "epochs"]
