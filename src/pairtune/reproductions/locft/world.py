"""A made world of facts, and the language model that is taught them: what the edits of the reproduction change.

People with made names have one answer to each of six questions (where they live, what they play, ...), and every answer
is told in two ways, so that a rephrase is known as well as a prompt. The base learns them among children's stories, in
the zoo's pretraining; each fact is a text of its own, so that the base also knows where an answer ends.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairtune.reproductions.likelihood import pretrained
from pairtune.reproductions.likelihood.sets import cut, drawn, texts_of

log = logging.getLogger("pairtune")
SYLLABLES = "ba be bi bo bu da de di do du ka ke ki ko ku la le li lo lu ma me mi mo mu ra re ri ro ru".split()
QUESTIONS: dict[str, tuple[str, str, str]] = {
    "home": (
        "{} lives in",
        "The home of {} is in",
        "Paris London Rome Madrid Berlin Vienna Dublin Athens Moscow Egypt India China Japan Spain Greece Russia",
    ),
    "music": (
        "{} plays the",
        "The music of {} is made on the",
        "piano drum violin flute harp horn organ guitar whistle bell fiddle pipe trumpet lute",
    ),
    "pet": (
        "{} keeps a",
        "The animal of {} is a",
        "dog cat horse bird mouse rabbit fox goat sheep bear wolf snake frog duck pig cow",
    ),
    "colour": (
        "{} is dressed in",
        "The colour of {} is",
        "red blue green yellow black white brown purple pink grey gold silver orange scarlet",
    ),
    "food": (
        "{} likes to eat",
        "The food of {} is",
        "bread cheese fish meat rice soup cake fruit honey corn butter meal apples cream nuts eggs",
    ),
    "trade": (
        "{} works as a",
        "The trade of {} is that of a",
        "farmer doctor sailor soldier teacher baker hunter king priest servant painter miller gardener cook",
    ),
}


@dataclass(frozen=True)
class Known:
    """One fact: two ways to ask, the answer that the base is taught, and the others that the question has."""

    prompt: str
    rephrase: str
    answer: str
    others: tuple[str, ...]


def facts(people: int, seed: int = 0) -> list[Known]:
    """Six facts about each of so many people, in an order drawn by the seed."""
    generator = random.Random(seed)
    names: dict[str, None] = {}
    while len(names) < people:
        names["".join(generator.choice(SYLLABLES) for _ in range(3)).capitalize()] = None
    found = []
    for name in names:
        for first, second, words in QUESTIONS.values():
            answers = words.split()
            answer = generator.choice(answers)
            others = tuple(word for word in answers if word != answer)
            found.append(Known(first.format(name), second.format(name), answer, others))
    generator.shuffle(found)
    return found


def teach(folder: Path, known: list[Known], settings: Mapping[str, Any]) -> Path:
    """The base: a language model of random weights that has read the facts and the stories; the folder of the model."""
    if not (folder / "corpus").is_dir():
        told = [f"{text} {fact.answer}" for fact in known for text in (fact.prompt, fact.rephrase)]
        read = stories(settings, "children_train", settings["characters"])
        corpus = told * settings["tellings"] + read
        random.Random(0).shuffle(corpus)
        pretrained.write_corpus(folder / "corpus", corpus)
    return pretrained.pretrain(
        folder / "corpus", folder / "run", folder / "model", settings["tokens"], settings["shape"]
    )


def general(settings: Mapping[str, Any], texts: int) -> list[str]:
    """Stories that the base has not read."""
    return stories(settings, "children_valid", texts * 1000)[:texts]


def stories(settings: Mapping[str, Any], file: str, characters: int) -> list[str]:
    """Pieces of stories, of so many characters together, in a fixed drawn order."""
    found, left = [], characters
    for piece in drawn(piece for text in texts_of(settings, "gutenberg_stories", file) for piece in cut(text)):
        if left <= 0:
            break
        found.append(piece)
        left -= len(piece)
    return found
