"""How a task becomes text: the only place that says so.

On a language model a row is one text,

    <start> text separator completion <end>

text: the text columns, those that are not empty, joined by the separator. separator: a line end unless the task says
otherwise. completion: the label's words (classification) or the target column (a completion to learn); a plain text has
none, and no separator. <start>: what the tokenizer itself puts before a text, once; <end>: its end-of-text token.

Text and `separator + completion` are tokenised apart and their ids are joined. So the completion's tokens are the same
wherever it is trained on or scored, behind any text, and the text's tokens are the same with and without a completion:
a text that is scored alone is exactly the beginning of the row that was trained on.

Words of a label: underscores become spaces (`card_arrival` → `card arrival`); nothing else changes.
"""

from __future__ import annotations

from collections.abc import Sequence

from pairtune.errors import InputError

SEPARATOR = "\n"


def words(label: str) -> str:
    """The words that stand for a label."""
    return " ".join(label.replace("_", " ").split())


def verbalise(labels: Sequence[str]) -> list[str]:
    """The words of each label, all different.

    Raises `InputError` naming a label without words, or two labels with the same.
    """
    found: dict[str, str] = {}
    for label in labels:
        text = words(label)
        if not text:
            raise InputError(f"the label {label!r} has no words, so that a language model cannot say it; rename it")
        if text in found:
            raise InputError(
                f"the labels {found[text]!r} and {label!r} are both said as {text!r}, so that a language model cannot "
                "tell them apart; rename one"
            )
        found[text] = label
    return list(found)


def join(parts: Sequence[str], separator: str = SEPARATOR) -> str:
    """The text of a row from its text columns."""
    return separator.join(part for part in parts if part) if len(parts) > 1 else parts[0]
