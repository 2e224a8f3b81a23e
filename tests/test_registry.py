"""Methods are found and described from the text of their files; only a method that is asked for is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pairtune import reading, registry
from pairtune.errors import ConfigError, InputError

WIDE = '''"""Widens things.

A paper about widening, arXiv 2401.01234. It widens. y = x + w, [B, T, d].
"""

from typing import Annotated, ClassVar, Literal

import pydantic
from pydantic import Field

from pairtune import method
from pairtune.tuners import Tuner
from pairtune.tuners._family import FamilySettings

raise_on_import = 1 / 0
STEEP = 0.25
Side = Literal["left", "right"]


class Wide(Tuner):
    provides = frozenset({"tokens", "merge"})
    default_lr: float = 1e-3
    computed = frozenset(len(name) for name in "ab")

    class Settings(FamilySettings):
        model_config = pydantic.ConfigDict(extra="forbid")
        kind: ClassVar[str] = "wide"
        hidden: int = Field(64, ge=1, le=4096, description="width, in units")
        must: float = Field(gt=0, lt=1, description="a share")
        must_too: int = Field(..., ge=2)
        plain: float = -0.5
        bare: str
        slope: float = Field(default=STEEP, ge=0)
        side: Side = "left"
        mode: Literal["a", "b"] | None = None
        noted: Annotated[float, Field(ge=0.0, description="noted")] = 1e-4
        names: list[str] = Field(default_factory=list, min_length=0)
        layers: tuple[int, ...] = (1, 2)
'''
FAMILY = '''"""Shared."""
from pydantic import Field
from pairtune import method


class FamilySettings(method.Settings):
    depth: int = Field(3, ge=0, description="blocks")
    plain: float = 9.0
'''
PEFT = '''"""Whatever PEFT has."""
import pydantic
from pairtune import method, tuners


class Settings(method.Settings):
    model_config = pydantic.ConfigDict(extra="allow")
    type: str


class Peft(tuners.Tuner):
    Settings = Settings
'''
WORKING = '''"""Works."""
from pydantic import Field
from pairtune import method


class Tuner(method.Method):
    pass


class Works(Tuner):
    class Settings(method.Settings):
        hidden: int = Field(64, ge=1)
        rate: float = Field(0.1, ge=0, le=1)
'''


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package folder with one room of four files, of which two are no methods."""
    room = tmp_path / "tuners"
    room.mkdir()
    (tmp_path / "constraints").mkdir()
    (tmp_path / "constraints" / "l2_sp.py").write_text('"""Holds."""\nclass L2(Constraint):\n    pass\n')
    for name, text in {"wide_one": WIDE, "_family": FAMILY, "peft": PEFT, "works": WORKING}.items():
        (room / f"{name}.py").write_text(text)
    (room / "__init__.py").write_text('"""The room."""\nclass Tuner: ...\nclass Fake(Tuner): ...\n')
    (room / "helper.py").write_text('"""No method."""\nclass Helper: ...\n')
    monkeypatch.setattr(reading, "PACKAGE", tmp_path)
    registry.methods.cache_clear()
    yield room
    registry.methods.cache_clear()


def test_a_file_counts_by_its_class_and_is_not_imported(house: Path):
    assert list(registry.methods("tuners")) == ["peft", "wide-one", "works"] == list(registry.names("tuners"))
    info = registry.find("tuners", "wide-one")
    assert info.summary == "Widens things."
    assert info.paper == "A paper about widening, arXiv 2401.01234"
    assert info.provides == {"tokens", "merge"}
    assert info.needs is None
    assert info.traits["default_lr"] == 1e-3
    assert not info.passthrough


def test_settings_are_read_with_type_default_and_range(house: Path):
    found = {one.name: one for one in registry.find("tuners", "wide-one").settings}
    assert list(found)[:2] == ["depth", "plain"], "inherited fields come first"
    assert "kind" not in found
    assert "model_config" not in found
    assert (found["hidden"].type, found["hidden"].default, found["hidden"].range) == ("int", 64, ">= 1, <= 4096")
    assert found["hidden"].help == "width, in units"
    assert found["depth"].constraints == {"ge": 0}
    assert found["plain"].default == -0.5, "the nearer definition wins"
    assert [name for name, one in found.items() if one.required] == ["must", "must_too", "bare"]
    assert found["must"].range == "> 0, < 1"
    assert found["slope"].default == 0.25, "a constant of the file is looked up"
    assert found["side"].type == "Literal['left', 'right']", "an alias of the file is looked up"
    assert found["mode"].type == "Literal['a', 'b'] | None"
    assert found["mode"].default is None
    assert not found["mode"].required
    assert (found["noted"].type, found["noted"].default, found["noted"].constraints) == ("float", 1e-4, {"ge": 0.0})
    assert found["names"].default == []
    assert found["layers"].default == (1, 2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wide_one", "did you mean wide-one?"),
        ("wrks", "did you mean works?"),
        ("zzz", "there are peft, wide-one, works"),
        ("l2-sp", "is one of the constraints"),
        ("_family", "there is no tuner"),
        ("../tuners/works", "there is no tuner"),
        ("", "there is no tuner ''"),
        ("peft:lroa", "did you mean lora"),
        ("works:lora", "there is no tuner 'works:lora'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(house: Path, name: str, said: str):
    with pytest.raises(InputError) as caught:
        registry.find("tuners", name)
    assert said in str(caught.value)


def test_an_unknown_room_is_answered_with_the_nearest(house: Path):
    with pytest.raises(InputError, match="did you mean tuners"):
        registry.methods("tuner")


def test_a_colon_presets_the_type_and_lets_further_settings_through(house: Path):
    info = registry.find("tuners", "peft:ia3")
    assert info.preset == {"type": "ia3"}
    assert info.passthrough
    assert registry.find("tuners", "peft").passthrough
    assert registry.unknown_settings(info, ["anything"]) == []
    assert registry.unknown_settings(registry.find("tuners", "works"), ["hiden"], "--tuner.") == [
        "--tuner.hiden: works has no such setting; did you mean hidden?"
    ]


def test_build_collects_every_problem_in_one_message(house: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pairtune.tuners.works", _executed(house / "works.py"))
    method = registry.build("tuners", "works", {"hidden": 3})
    assert (method.settings.hidden, method.settings.rate) == (3, 0.1)
    with pytest.raises(ConfigError) as caught:
        registry.build("tuners", "works", {"hidden": 0, "rate": "x", "hiden": 2})
    assert len(caught.value.problems) == 3
    text = str(caught.value)
    assert "tuners.works has 3 problems" in text
    assert "hidden: input should be greater than or equal to 1 (found 0)" in text
    assert "hiden: there is no such setting; did you mean hidden?" in text


def test_what_is_read_is_what_pydantic_has():
    """On every real method: the names, the defaults and the ranges read from the text equal those of the class."""
    for room in registry.rooms():
        for info in registry.methods(room).values():
            fields = registry.load(room, info.name).Settings.model_fields
            assert [one.name for one in info.settings] == list(fields), f"{room}/{info.name}"
            for one in info.settings:
                field = fields[one.name]
                assert one.required == field.is_required(), f"{room}/{info.name}.{one.name}"
                assert one.help, f"{room}/{info.name}.{one.name} has no description"
                if not one.required:
                    actual = field.get_default(call_default_factory=True)
                    assert one.default == actual or str(one.default) == str(actual), f"{info.name}.{one.name}"


def test_every_method_says_what_it_is():
    for room in registry.rooms():
        assert list(registry.methods(room)) == list(registry.names(room))
        for info in registry.methods(room).values():
            assert 10 <= len(info.summary) <= 120, f"{room}/{info.name}: the docstring's first line is its summary"


def _executed(path: Path):
    import types

    module = types.ModuleType("pairtune.tuners.works")
    exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    return module
