"""What the project stands on: imports that stay light, declared dependencies, arrows, generated pages."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pairtune

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "pairtune"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
RUNTIME = [*PROJECT["project"]["dependencies"], *EXTRAS["offline"], *EXTRAS["quantized"], *EXTRAS["gguf"]]


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~ ]", name)[0]).lower()


def test_importing_pairtune_is_light():
    code = "import sys, pairtune; dir(pairtune); print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", pairtune.__all__)
def test_every_public_name_is_there(name: str):
    assert getattr(pairtune, name).__name__ == name
    assert name in dir(pairtune)


def test_public_names_have_one_list():
    assert set(pairtune.__all__) == set(pairtune._HOME)
    with pytest.raises(AttributeError, match="no attribute 'Pear'"):
        pairtune.Pear  # noqa: B018


def test_what_is_imported_is_declared():
    """Every library that the package imports, at whatever depth of its code, is a dependency or in a user's extra."""
    declared = {plain(line) for line in RUNTIME}
    homes = importlib.metadata.packages_distributions()
    missing = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for top in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"pairtune"}:
                if not declared & {plain(home) for home in homes.get(top, [top])}:
                    missing.setdefault(top, str(path.relative_to(ROOT)))
    assert not missing, f"imported, but not in pyproject.toml's dependencies: {missing}"


def test_dependencies_have_lower_bounds_only():
    for line in [*PROJECT["project"]["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]:
        assert re.fullmatch(r"[a-z0-9-]+(\[[a-z]+\])?>=[0-9.]+", line), line


def test_constraints_pin_every_dependency():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line) for line in lines), "exact, no local versions"
    pinned = {plain(line) for line in lines}
    wanted = {plain(line) for line in [*RUNTIME, *EXTRAS["dev"]]}
    assert wanted <= pinned, f"not in constraints.txt: {sorted(wanted - pinned)}"
    assert "torch==2.13.0" in lines


def test_every_room_has_its_place_in_the_layers():
    """A new room that is in no layer would be free to import anything."""
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    placed = {name for layer in layers for name in re.findall(r"\w+", layer)}
    here = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"} - {"__pycache__"}
    assert {name for name in here if not name.startswith("__")} <= placed


def test_no_file_outgrows_a_sitting():
    long = {}
    for folder in ("src", "tests", "benchmarks", "docs"):
        for path in (ROOT / folder).rglob("*.py"):
            count = len(path.read_text(encoding="utf-8").splitlines())
            if count > 300:
                long[str(path.relative_to(ROOT))] = count
    assert not long, f"over 300 lines: {long}"


def test_generated_pages_are_current():
    pages = dict(runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]())
    stale = [
        str(path)
        for path, text in pages.items()
        if not (ROOT / "docs" / path).exists() or (ROOT / "docs" / path).read_text(encoding="utf-8") != text
    ]
    left = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs" / "methods").glob("*.md")} - set(pages)
    assert not stale, "run `make docs`"
    assert not left, "run `make docs`: the rooms of these pages are gone"


def test_the_first_commands_are_there():
    makefile = (ROOT / "Makefile").read_text()
    targets = ["demo", "test", "lint", "soak", "reproduce", "bench", "docs"]
    assert all(re.search(rf"^{target}: \$\(STAMP\)", makefile, re.MULTILINE) for target in targets)
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
