"""Two languages made of one: English news, and the same with most of its words renamed.

Language B is language A (lower-cased English) with a share of the word types in another script: "the" is "THE". A word
that is not renamed is a cognate. Nothing but the context of a renamed word says what it means, and every text has an
exact translation, so that the test set has the same items and labels in both.

The texts are AG News (`ag_news_small`: four topics), the first words of title and text. Of its training rows

    language A, no labels     what the base is pretrained on, mostly
    language B, no labels     a little more of what it is pretrained on
    language B, no labels     what a language delta is tuned on, in other rows, and its validation
    language A, with labels   what a task delta is tuned on (rows that the base has read), and its validation
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairtune.pair.staging import staged_folder
from pairtune.reproductions.sources import Rows, rows_of, write_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORD = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TEXT = {"kind": "lm", "text": "text"}
TOPICS = {"kind": "classification", "text": "text", "label": "label"}


def build(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the tasks `a` and `b` (text to pretrain on), `language` (text of B) and `topics` into a folder.

    The test rows of `topics` stand in the split "test", their translations in "ood/b". The vocabulary is written as
    `words.txt`: A's words in the order of their frequency, then the renamed ones.
    """
    if folder.is_dir():
        return
    words = settings["words"]
    rows = {
        split: [_cut(row, words) for row in rows_of(settings, "ag_news_small", split)] for split in ("train", "test")
    }
    for one in rows.values():
        random.Random(0).shuffle(one)
    train, test = rows["train"], rows["test"][: settings["test"]]
    counts = Counter(word for row in train for word in row["text"].split())
    known = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: settings["vocabulary"]]]
    names = renamed(known, settings["renamed"])
    parts = _parts(train, settings)
    tasks = {
        "a": {"train": _plain(parts["a"])},
        "b": {"train": _plain(translated(parts["b"], names))},
        "language": {name: _plain(translated(parts[f"language {name}"], names)) for name in ("train", "validation")},
        "topics": {
            "train": parts["a"][: settings["labelled"]],
            "validation": parts["a"][settings["labelled"] :][: settings["held"]],
            "test": test,
            "ood/b": translated(test, names),
        },
    }
    with staged_folder(folder) as staging:
        for name, splits in tasks.items():
            write_task(staging / name, splits)
        (staging / "words.txt").write_text("\n".join([*known, *names.values()]), encoding="utf-8")


def tokenizer_of(folder: Path) -> PreTrainedTokenizerBase:
    """One token a word of either language; a word that is too rare is unknown in both."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = (folder / "words.txt").read_text(encoding="utf-8").split("\n")
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))]
    )
    roles = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def renamed(words: Sequence[str], share: float) -> dict[str, str]:
    """Word of A → word of B, for a random share of the words (not of figures and signs)."""
    real = [word for word in words if word.isalpha()]
    chosen = set(random.Random(1).sample(real, round(share * len(real))))
    return {word: word.upper() for word in words if word in chosen}


def translated(rows: Rows, names: Mapping[str, str]) -> Rows:
    """The rows in language B."""
    return [row | {"text": " ".join(names.get(word, word) for word in row["text"].split())} for row in rows]


def _cut(row: Mapping[str, Any], words: int) -> dict[str, Any]:
    found = WORD.findall(f"{row['title']} . {row['text']}".lower())
    return {"text": " ".join(found[:words]), "label": row["label"]}


def _parts(train: Rows, settings: Mapping[str, Any]) -> dict[str, Rows]:
    """Disjoint rows of each part."""
    found, start = {}, 0
    for name, key in (
        ("a", "text_a"),
        ("b", "text_b"),
        ("language train", "text_language"),
        ("language validation", "held"),
    ):
        found[name] = train[start : start + settings[key]]
        start += settings[key]
    return found


def _plain(rows: Rows) -> Rows:
    return [{"text": row["text"]} for row in rows]
