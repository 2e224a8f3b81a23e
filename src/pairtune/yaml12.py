"""YAML as people expect it: `1e-3` is a number, `no` is a word, a date is text, a key written twice is an error.

PyYAML follows YAML 1.1, where `1e-3` is text, `no` is false and the second of two equal keys wins in silence. Run files
and the values of dotted flags are both read here, so that `--training.lr 1e-3` and `lr: 1e-3` mean the same.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from pairtune.errors import InputError

# The core schema of YAML 1.2, chapter 10.3.2.
_RESOLVERS = [
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:merge", r"<<", "<"),
]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 (the base class declares it so)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConstructorError(None, None, "a key must be a plain word", key.start_mark)
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise ConstructorError(None, None, f"the key {key.value!r} appears twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_scalar_as_resolved(self, text: str) -> Any:
        tag = self.resolve(yaml.ScalarNode, text, (True, False))
        return self.construct_object(yaml.ScalarNode(tag, text))

    def construct_decimal(self, node: yaml.ScalarNode) -> int:
        return int(self.construct_scalar(node))  # 010 is ten, not eight


for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_decimal)


def loads(text: str, where: str = "the text") -> Any:
    """The value of one YAML document. Raises `InputError` that names line and column of a fault."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{where}{place}: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{where}: this is not YAML ({str(error).splitlines()[0]})") from None


def scalar(text: str, where: str = "the value") -> Any:
    """The value of one command-line word: a list, mapping or quoted text is YAML, all else a number, word or sentence.

    `Q: {question}` is text here, where in a document it would be a mapping.
    """
    if text[:1] in {"[", "{", '"', "'"}:
        return loads(text, where)
    return _Loader("").construct_scalar_as_resolved(text) if text else ""


def load(path: Path) -> Any:
    """The value of a YAML file, named in errors. Raises `InputError` where it is missing, no text, or no YAML."""
    try:
        return loads(path.read_text(encoding="utf-8"), where=str(path))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
