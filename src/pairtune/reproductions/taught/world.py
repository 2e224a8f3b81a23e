"""Made people with six attributes each, and the language model that has read about a hundred of them.

The base reads every question about most of its people in every wording, with its answer, among children's stories, so
that it can parse the questions that are asked about others later. Of some it reads the plain wordings alone: what it
makes of the other questions about these says how far such a model carries a fact from one wording to another at all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pairtune.data.knowledge import Question
from pairtune.data.knowledge_made import Stated, questions, training_rows
from pairtune.data.verbalise import SEPARATOR
from pairtune.reproductions.likelihood import pretrained
from pairtune.reproductions.locft.world import SYLLABLES, stories

NUMBERS = {"weight": (100, 250), "height": (150, 200), "age": (20, 80)}
WORDS = {
    "occupation": "farmer doctor sailor soldier teacher baker hunter priest painter miller".split(),
    "favourite colour": "red blue green yellow black white brown purple".split(),
    "city": "Paris London Rome Madrid Berlin Vienna Dublin Athens Moscow".split(),
}


def people(count: int, seed: int, taken: Sequence[Stated] = ()) -> list[Stated]:
    """Six facts about each of so many people, whose first and last names nobody else has, none of `taken` either."""
    generator = random.Random(seed)
    used = {word for one in taken for word in one.subject.split()}
    found = []
    for _ in range(count):
        name = f"{_word(generator, used)} {_word(generator, used)}"
        for attribute, (low, high) in NUMBERS.items():
            found.append(Stated(name, attribute, str(generator.randint(low, high))))
        for attribute, words in WORDS.items():
            found.append(Stated(name, attribute, generator.choice(words)))
    return found


def changed(facts: Sequence[Stated], seed: int) -> list[Stated]:
    """The same facts with other values; what they were is what was right before."""
    generator = random.Random(seed)
    found = []
    for one in facts:
        value = one.value
        while value == one.value:
            words = WORDS.get(one.attribute)
            value = generator.choice(words) if words else str(generator.randint(*NUMBERS[one.attribute]))
        found.append(Stated(one.subject, one.attribute, value, one.value))
    return found


def teach(folder: Path, known: Sequence[Stated], plain: Sequence[Stated], settings: Mapping[str, Any]) -> Path:
    """The base, from random weights; the folder of the model.

    Args:
        known: facts of which it reads every question. plain: those of which it reads the plain wordings alone.
    """
    if not (folder / "corpus").is_dir():
        told = [*_asked(known, settings["drawings"]), *_plain([*known, *plain])]
        corpus = told * settings["tellings"] + stories(settings, "children_train", settings["characters"])
        random.Random(0).shuffle(corpus)
        pretrained.write_corpus(folder / "corpus", corpus)
    return pretrained.pretrain(
        folder / "corpus", folder / "run", folder / "model", settings["tokens"], settings["shape"]
    )


def _asked(facts: Sequence[Stated], drawings: int) -> Iterator[str]:
    """Every question with its answer, drawn so many times: the same fact is compared with others each time."""
    asked: dict[Question, None] = {}
    for seed in range(drawings):
        asked |= dict.fromkeys(questions(facts, seed))
    return (f"{one.prompt}{SEPARATOR}{one.answer}" for one in asked)


def _plain(facts: Sequence[Stated]) -> Iterator[str]:
    return (f"{row['prompt']}{SEPARATOR}{row['completion']}" for row in training_rows(facts, 5))


def _word(generator: random.Random, used: set[str]) -> str:
    """A name that nobody has."""
    while (word := "".join(generator.choice(SYLLABLES) for _ in range(3)).capitalize()) in used:
        pass
    used.add(word)
    return word
