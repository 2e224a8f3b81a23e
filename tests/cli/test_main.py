"""The command line answers questions and typing mistakes at once: without torch, transformers or numpy."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import pytest
import typer

from pairtune import registry
from pairtune.cli import main

HEAVY = ["torch", "transformers", "peft", "datasets", "sklearn", "numpy"]
PROBE = f"""
import atexit, sys
from pairtune.cli.main import run
atexit.register(lambda: print("IMPORTED", [name for name in {HEAVY} if name in sys.modules], file=sys.stderr))
run(sys.argv[1:])
"""


def call(*words: str) -> tuple[int, str, str, str]:
    """Exit code, stdout, stderr, and which of the heavy modules were imported, of one command line."""
    done = subprocess.run([sys.executable, "-c", PROBE, *words], capture_output=True, text=True, timeout=60)
    err, _, heavy = done.stderr.rpartition("IMPORTED ")
    return done.returncode, done.stdout, err, heavy.strip()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--help", 0, "methods"),
        ("", 2, "usage: pairtune VERB"),
        ("--version", 0, "pairtune 0."),
        ("methods", 0, "tuners:"),
        ("methods tuners", 0, "tuners:"),
        ("methods --help", 0, "--json"),
        ("methds", 2, "there is no verb 'methds'; did you mean methods?"),
        ("zzz", 2, "there is no verb 'zzz' (there are"),
        ("--hlp", 2, "there is no flag '--hlp'"),
        ("methods --jsn", 2, "there is no flag --jsn; did you mean --json?"),
        ("methods tunrs", 2, "there is no room 'tunrs'; did you mean tuners?"),
        ("methods tuners levy", 2, "there is no tuner 'levy'; did you mean levi?"),
        ("inspect", 2, "usage: pairtune inspect QUESTION"),
        ("inspect --help", 0, "usage: pairtune inspect QUESTION"),
        ("inspect nkt", 2, "there is no question 'nkt'; did you mean ntk?"),
        ("inspect ntk --rwos 3", 2, "there is no flag --rwos; did you mean --rows?\nsee `pairtune inspect ntk --help`"),
        ("methods a b c", 2, "unexpected extra argument"),
        ("schema tuners", 2, "is not of the form ROOM/NAME"),
        ("schema tuners/levy", 2, "did you mean levi?"),
        ("zoo", 0, "tiny-lm"),
        ("tune --base b --data d --tuner lvei", 2, "there is no tuner 'lvei'; did you mean levi?"),
        ("tune --base b --data d --tuner peft:lroa", 2, "did you mean lora"),
        ("tune --base b --data d --tuner levi --tuner.hiden 1", 2, "levi has no such setting; did you mean hidden?"),
        ("tune --base b --data d --training.epoch 1", 2, "did you mean epochs?"),
        ("tune --base b --data d --constraint.l2spp.weight 1", 2, "did you mean l2sp?"),
        ("tune --bsae b", 2, "there is no flag --bsae; did you mean --base"),
    ],
)
def test_answers_without_heavy_imports(words: str, code: int, said: str):
    got, out, err, heavy = call(*words.split())
    assert said in out + err
    assert got == code
    assert heavy == "[]"
    assert (out == "") == (code == 2 and words not in ("", "inspect")), "results on stdout, faults on stderr"


def test_every_verb_has_a_summary_and_helps_without_torch():
    verbs = main.verbs()
    assert {"methods", "schema", "zoo"} <= set(verbs)
    questions = {f"inspect {name}": said for name, said in main.verbs(main.HERE / "inspect").items()}
    for verb, summary in (verbs | questions).items():
        assert 5 <= len(summary) <= 120, f"{verb}: the docstring's first line is what `pairtune --help` shows"
        code, out, _, heavy = call(*verb.split(), "--help")
        assert code == 0, verb
        assert f"pairtune {verb}" in out
        assert "torch" not in heavy, f"`pairtune {verb} --help` imports {heavy}"
        assert "transformers" not in heavy, f"`pairtune {verb} --help` imports {heavy}"


def test_methods_as_json_has_every_method():
    code, out, _, _ = call("methods", "--json")
    assert code == 0
    listed = json.loads(out)
    assert {room: [one["name"] for one in known] for room, known in listed.items()} == {
        room: list(registry.methods(room)) for room in registry.rooms()
    }


def test_a_method_page_shows_every_setting():
    for room in registry.rooms():
        for name, info in registry.methods(room).items():
            code, out, _, heavy = call("methods", room, name)
            assert code == 0
            assert heavy == "[]"
            assert info.summary in out
            for one in info.settings:
                assert one.name in out, f"{room}/{name}"
            break  # one a room: a process each


def test_schema_is_that_of_the_settings():
    room = next(room for room in registry.rooms() if registry.methods(room))
    name = next(iter(registry.methods(room)))
    code, out, _, _ = call("schema", f"{room}/{name}")
    assert code == 0
    schema = json.loads(out)
    assert set(schema.get("properties", {})) == {one.name for one in registry.find(room, name).settings}


def test_python_m_pairtune_is_the_command():
    done = subprocess.run([sys.executable, "-m", "pairtune", "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("pairtune ")


@pytest.fixture
def verb(monkeypatch):
    """A verb `probe` with an argument, a flag and dotted flags; what it was given is in the returned list."""
    seen: list = []

    def probe(ctx: typer.Context, file: str, count: int = 1) -> None:
        if count == 99:
            raise KeyboardInterrupt("kept step 4")
        seen.append((file, count, list(ctx.args)))

    module = types.ModuleType("pairtune.cli.probe")
    module.probe = probe  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pairtune.cli.probe", module)
    monkeypatch.setattr(main, "verbs", lambda _: {"probe": "look"})
    return seen


def code_of(*words: str) -> int:
    with pytest.raises(SystemExit) as leave:
        main.run(words)
    return leave.value.code  # type: ignore[return-value]


def test_dotted_flags_reach_a_verb_and_leave_its_arguments_alone(verb):
    assert code_of("probe", "--tuner.hidden", "-3", "a.csv", "--count", "2", "--data.text=b") == 0
    assert verb == [("a.csv", 2, ["--tuner.hidden=-3", "--data.text=b"])]


def test_faults_of_use_are_answered_before_the_verb_runs(verb, capsys):
    assert code_of("probe", "a.csv", "--conut", "2") == 2
    assert "there is no flag --conut; did you mean --count?" in capsys.readouterr().err
    assert code_of("probe", "a.csv", "--count", "x") == 2
    assert "--count" in capsys.readouterr().err
    assert code_of("probe") == 2
    assert "see `pairtune probe --help`" in capsys.readouterr().err
    assert verb == []


def test_ctrl_c_says_what_was_kept(verb, capsys):
    assert code_of("probe", "a.csv", "--count", "99") == 130
    assert capsys.readouterr().err == "stopped: kept step 4\n"
