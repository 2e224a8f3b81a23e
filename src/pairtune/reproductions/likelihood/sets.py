"""The real texts of the reproduction, cut to size: drawn by a fixed seed, no text on two sides."""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pairtune.reproductions.sources import Rows, place, rows_of

CALCULATION = re.compile(r"<<.*?>>")


@dataclass(frozen=True)
class Ground:
    """An ID set and what is set against it; `train` and `validation` are rows to tune on, the others texts."""

    train: Rows
    validation: Rows
    test: list[str]
    ood: dict[str, list[str]]


def texts_of(settings: Mapping[str, Any], name: str, file: str, column: str = "text", most: int = 0) -> list[str]:
    """One column of a file: `most` of its texts (0: all), each once."""
    return drawn((row[column].strip() for row in rows_of(settings, name, file)), most)


def drawn(texts: Iterable[str], most: int = 0) -> list[str]:
    """`most` texts (0: all) without blanks and repeats, in an order drawn by a fixed seed."""
    found = [text for text in dict.fromkeys(texts) if text]
    random.Random(0).shuffle(found)
    return found[:most] if most else found


def ground(train: list[str], validation: list[str], test: list[str], ood: dict[str, list[str]]) -> Ground:
    """An ID set whose test texts were never trained on, and whose OOD texts are in none of its splits."""
    seen = {*train, *validation}
    inside = {*seen, *test}
    return Ground(
        [{"text": text} for text in train],
        [{"text": text} for text in validation if text not in set(train)],
        [text for text in test if text not in seen],
        {name: [text for text in texts if text not in inside] for name, texts in ood.items()},
    )


def clinc(settings: Mapping[str, Any]) -> Ground:
    """CLINC150: requests of 150 intents, against its own out-of-scope requests (none of them to train or validate)."""
    train, validation, test = (
        texts_of(settings, "clinc150", file, most=settings[size])
        for file, size in (("train", "train"), ("val", "validation"), ("test", "test"))
    )
    outside = texts_of(settings, "clinc150", "oos_test", most=settings["test"])
    return ground(train, validation, test, {"oos": outside})


def banking(settings: Mapping[str, Any]) -> Ground:
    """BANKING77 without a quarter of its intents, which are what is outside."""
    rows, test = (rows_of(settings, "banking77", file) for file in ("train", "test"))
    intents = sorted({row["intent"] for row in rows})
    held = set(random.Random(0).sample(intents, len(intents) // 4))
    inside = drawn(row["text"].strip() for row in rows if row["intent"] not in held)
    size = settings["train"]
    return ground(
        inside[:size],
        inside[size : size + settings["validation"]],
        drawn((row["text"].strip() for row in test if row["intent"] not in held), settings["test"]),
        {"held": drawn((row["text"].strip() for row in test if row["intent"] in held), settings["test"])},
    )


def newsgroups(settings: Mapping[str, Any]) -> Ground:
    """20 Newsgroups without headers, quotes and signatures, against three sets of short sentences."""
    size, most = settings["train"], settings["test"]
    inside = texts_of(settings, "newsgroups20", "train")
    outside = {
        "film sentences": texts_of(settings, "movie_sentiment", "sst2_test", most=most),
        "news titles": texts_of(settings, "ag_news_small", "test", "title", most=most),
        "requests": texts_of(settings, "clinc150", "test", most=most),
    }
    test = texts_of(settings, "newsgroups20", "test", most=most)
    return ground(inside[:size], inside[size : size + settings["validation"]], test, outside)


def far(settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """What is far from CLINC150, `test` texts of each kind."""
    most = settings["test"]
    lines = gzip.decompress((place(settings, "tinyshakespeare") / "valid.txt.gz").read_bytes()).decode().split("\n")
    sms = rows_of(settings, "sms_spam", "test")
    return {
        "SMS": drawn((row["text"].strip() for row in sms if row["label"] == "ham"), most),
        "film sentences": texts_of(settings, "movie_sentiment", "sst2_test", most=most),
        "news titles": texts_of(settings, "ag_news_small", "test", "title", most=most),
        "news texts": texts_of(settings, "ag_news_small", "test", most=most),
        "Shakespeare lines": drawn((line for line in lines if line and not line.endswith(":")), most),
        "1-3 words": drawn(map(few_words, texts_of(settings, "ag_news_small", "train", most=2 * most)), most),
    }


def few_words(text: str) -> str:
    """One to three words that stand together somewhere in a text, drawn by the text itself."""
    generator, words = random.Random(text), text.split()
    start = generator.randrange(len(words))
    return " ".join(words[start : start + generator.randint(1, 3)])


def messages(settings: Mapping[str, Any]) -> tuple[Ground, Ground]:
    """SMS Spam, repeats removed: ham against spam, and spam against ham; the same test messages."""
    found = []
    for label in ("ham", "spam"):
        own = [row["text"].strip() for row in rows_of(settings, "sms_spam", "train") if row["label"] == label]
        rest = [row["text"].strip() for row in rows_of(settings, "sms_spam", "test") if row["label"] == label]
        own, held = drawn(own), settings["validation"]
        found.append((own[held:][: settings["train"]], own[:held], drawn(rest, settings["test"])))
    (ham, ham_held, ham_test), (spam, spam_held, spam_test) = found
    return ground(ham, ham_held, ham_test, {"spam": spam_test}), ground(spam, spam_held, spam_test, {"ham": ham_test})


def arithmetic(settings: Mapping[str, Any]) -> Ground:
    """GSM8K questions with their answers to tune on (those of at most 450 characters), against other questions."""
    rows = [
        {"question": row["question"].strip(), "answer": CALCULATION.sub("", row["answer"])}
        for row in rows_of(settings, "gsm8k", "train")
    ]
    rows = [row for row in rows if len(row["question"]) + len(row["answer"]) <= 450]
    random.Random(0).shuffle(rows)
    size, most = settings["train"], settings["test"]
    tasks: dict[str, list[str]] = {}
    for row in rows_of(settings, "natural_instructions", "test"):
        tasks.setdefault(row["task"], []).append(row["input"].strip())
    outside = {
        "open questions": drawn(tasks["task671_ambigqa_text_generation"], most),
        "questions on a sentence": drawn(tasks["task020_mctaco_span_based_question"], most),
        "questions on a table": texts_of(settings, "wikitablequestions", "test", "question", most=most),
        "political statements": texts_of(settings, "liar", "test", "statement", most=most),
    }
    test = texts_of(settings, "gsm8k", "test", "question", most=most)
    return Ground(rows[:size], rows[size : size + settings["validation"]], test, outside)


def broad(settings: Mapping[str, Any], characters: int) -> list[str]:
    """Encyclopedia, instructions and stories, at most a third of `characters` each, in pieces of at most 2,000."""
    wiki = gzip.decompress((place(settings, "wikitext2") / "valid.txt.gz").read_bytes()).decode()
    told = rows_of(settings, "instructions_small", "train")
    kinds = (
        [wiki],
        ["\n".join(row[key] for key in ("instruction", "input", "output") if row[key]) for row in told],
        texts_of(settings, "gutenberg_stories", "children_train"),
    )
    found = []
    for texts in kinds:
        left = characters // 3
        for piece in drawn(piece for text in texts for piece in cut(text)):
            if len(piece) <= left:
                found.append(piece)
                left -= len(piece)
    return drawn(found)


def shakespeare(settings: Mapping[str, Any]) -> list[str]:
    """Plays in pieces of at most 2,000 characters."""
    return cut(gzip.decompress((place(settings, "tinyshakespeare") / "train.txt.gz").read_bytes()).decode())


def cut(text: str, size: int = 2000) -> list[str]:
    """A text in pieces of at most `size` characters."""
    return [text[start : start + size] for start in range(0, len(text), size)]
