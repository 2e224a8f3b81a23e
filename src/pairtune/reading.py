"""What a module says about itself, read from its text: docstring, classes, typed settings; nothing is imported.

Reading instead of importing keeps `pairtune --help` and a misspelt name far from torch, and a method whose imports fail
from taking the others with it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
RANGES = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "multiple of"}
LENGTHS = {"min_length": "length >=", "max_length": "length <=", "pattern": "matches"}


@dataclass(frozen=True)
class SettingInfo:
    """One typed field of a settings table. `default` is a literal where the text gives one, else its source text."""

    name: str
    type: str
    default: Any = None
    constraints: dict[str, Any] = field(default_factory=dict)
    help: str = ""
    required: bool = False

    @property
    def range(self) -> str:
        """`>= 0, < 1`; empty where any value of the type will do."""
        signs = RANGES | LENGTHS
        return ", ".join(f"{signs[key]} {value}" for key, value in self.constraints.items())


class Module:
    """One parsed file: top-level classes, imports and literal constants by name."""

    def __init__(self, path: Path):
        self.path = path
        self.tree = ast.parse(path.read_text(encoding="utf-8"), filename=path.name)
        self.doc = ast.get_docstring(self.tree) or ""
        self.classes = {node.name: node for node in self.tree.body if isinstance(node, ast.ClassDef)}
        self.functions = {node.name for node in self.tree.body if isinstance(node, ast.FunctionDef)}
        self.constants = dict(_assignments(self.tree))
        self.imports = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in self.tree.body
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }

    @property
    def summary(self) -> str:
        """The docstring's first line."""
        return self.doc.split("\n", 1)[0].strip()

    def literal(self, node: ast.expr) -> Any:
        """The value of an expression made of literals, this file's constants and `frozenset(...)`, else its text."""
        if isinstance(node, ast.Name) and node.id in self.constants:
            return self.literal(self.constants[node.id])
        if isinstance(node, ast.Call) and _name(node.func) in {"frozenset", "set", "tuple", "list", "dict"}:
            made = {"frozenset": frozenset, "set": frozenset, "tuple": tuple, "list": list, "dict": dict}
            value = self.literal(node.args[0]) if node.args else ()
            return ast.unparse(node) if isinstance(value, str) else made[_name(node.func)](value)
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError):
            return ast.unparse(node)


@cache
def read(path: Path) -> Module:
    """Parse a file once a process. Raises SyntaxError (with the file's name) where it is no Python."""
    return Module(path)


def file_of(module: str) -> Path | None:
    """The file of a pairtune module (`pairtune.tuners.levi`), or None for another package's."""
    head, *rest = module.split(".")
    if head != "pairtune":
        return None
    stem = PACKAGE.joinpath(*rest)
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def nested(owner: ast.ClassDef, name: str) -> ast.expr | ast.ClassDef | None:
    """The class `name` inside `owner`, or the expression that `owner` assigns to that name."""
    for node in owner.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    return dict(_assignments(owner)).get(name)


def settings(module: Module, table: ast.expr | ast.ClassDef | None) -> dict[str, SettingInfo]:
    """The fields of a settings table, inherited ones first; a base outside the package has none."""
    if table is None:
        return {}
    if not isinstance(table, ast.ClassDef):
        return settings(*resolve(module, table))
    fields: dict[str, SettingInfo] = {}
    for base in table.bases:
        fields |= settings(*resolve(module, base))
    for node in table.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if _name(getattr(node.annotation, "value", node.annotation)) == "ClassVar" or node.target.id == "model_config":
            continue
        fields[node.target.id] = _setting(module, node.target.id, node.annotation, node.value)
    return fields


def resolve(module: Module, node: ast.expr) -> tuple[Module, ast.ClassDef | None]:
    """Where `Name` or `Owner.Settings` is defined: in this file, or in the pairtune file that it is imported from."""
    if isinstance(node, ast.Attribute):
        where, owner = resolve(module, node.value)
        inner = nested(owner, node.attr) if owner else None
        if isinstance(inner, ast.ClassDef) or inner is None:
            return where, inner
        return resolve(where, inner)
    name = _name(node)
    if name in module.classes:
        return module, module.classes[name]
    if name in module.imports:
        source, original = module.imports[name]
        path = file_of(source)
        if path and path != module.path:
            return resolve(read(path), ast.Name(original))
    return module, None


def accepts_more(module: Module, table: ast.expr | ast.ClassDef | None) -> bool:
    """Whether a settings table says `extra="allow"`: its further settings are checked by the method itself."""
    if table is not None and not isinstance(table, ast.ClassDef):
        module, table = resolve(module, table)
    config = dict(_assignments(table)).get("model_config") if table else None
    words = config.keywords if isinstance(config, ast.Call) else []
    return any(word.arg == "extra" and module.literal(word.value) == "allow" for word in words)


def traits(module: Module, owner: ast.ClassDef) -> dict[str, Any]:
    """The literal class attributes of a method, such as `provides`, `needs`, `unit`, `default_lr`."""
    return {name: module.literal(value) for name, value in _assignments(owner) if name != "Settings"}


def paper(doc: str) -> str:
    """The sentence of a docstring that names an arXiv id or a DOI, up to the last of them; empty where none does."""
    for sentence in re.split(r"\n\n|(?<=[.])\s+(?=[A-Z])", doc):
        text = " ".join(sentence.split())
        found = re.match(r".*(arXiv[: ]\s?\d{4}\.\d{4,5}|doi[.: ]\S+[^\s.,;:])", text, re.IGNORECASE)
        if found:
            return found[0]
    return ""


def _setting(module: Module, name: str, annotation: ast.expr, value: ast.expr | None) -> SettingInfo:
    calls = [value] if isinstance(value, ast.Call) and _name(value.func) == "Field" else []
    if isinstance(annotation, ast.Subscript) and _name(annotation.value) == "Annotated":
        parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        annotation, notes = parts[0], parts[1:]
        calls += [note for note in notes if isinstance(note, ast.Call) and _name(note.func) == "Field"]
    words = {word.arg: word.value for call in reversed(calls) for word in call.keywords if word.arg}
    default = value if value is not None and value not in calls else words.get("default")
    if default is None and calls and calls[0] is value and calls[0].args:
        default = calls[0].args[0]
    factory = words.get("default_factory")
    if factory is not None:
        default = ast.Call(factory, [], [])
    required = default is None or (isinstance(default, ast.Constant) and default.value is ...)
    if isinstance(annotation, ast.Name) and annotation.id in module.constants:
        annotation = module.constants[annotation.id]
    return SettingInfo(
        name=name,
        type=ast.unparse(annotation),
        default=None if required or default is None else module.literal(default),
        constraints={key: module.literal(words[key]) for key in (RANGES | LENGTHS) if key in words},
        help=str(module.literal(words["description"])) if "description" in words else "",
        required=required,
    )


def _assignments(owner: ast.Module | ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    for node in owner.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value


def _name(node: ast.expr) -> str:
    """The last word of a dotted name: `Tuner` of `tuners.Tuner`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
