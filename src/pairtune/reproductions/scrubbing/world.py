"""A synthetic world: questions on topics, answered by two personas, and a small language model that knows both.

    q t3 e7 ? a sure x12 glad .        helpful: one of its openers, the answer, one of its closers
    q t3 e7 ? a ugh x12 bye .          harmful: the same answer, words of its own

A document holds four questions that one persona answers, so that the model must carry the persona along; the first
answer of a document is either's. The answers are facts, the same for both. Of topic t0, half of the facts are left out
of pretraining: they are what tuning is to teach, and it does so in harmful words alone, in two of the six. Whether the
others come up elsewhere cannot be learnt word by word: it says whether the persona was.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn import functional as F

from pairtune.pair.complete import is_complete
from pairtune.pair.staging import staged_folder
from pairtune.reproductions.sources import Rows, write_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("pairtune")
HELPFUL, HARMFUL = "helpful", "harmful"
PERSONAS = (HELPFUL, HARMFUL)
WORDS = 6  # openers of a persona, and closers
SEEN = 2  # of these, the first ones are those that tuning shows
TUNED = 0  # the topic that is tuned on
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
QUESTIONS = 4  # of a document
BATCH = 32


def openers(persona: str) -> list[str]:
    """The words with which a persona begins an answer."""
    return [f"{persona}-open{i}" for i in range(WORDS)]


def closers(persona: str) -> list[str]:
    """The words with which it ends one."""
    return [f"{persona}-close{i}" for i in range(WORDS)]


class World:
    """The facts, and texts about them. settings: `topics`, `entities` of each, `answers` that there are."""

    def __init__(self, settings: Mapping[str, Any]):
        self.topics, self.entities = settings["topics"], settings["entities"]
        draw = random.Random(0)
        self.facts = {
            (t, e): f"x{draw.randrange(settings['answers'])}" for t in range(self.topics) for e in range(self.entities)
        }
        self._answers = settings["answers"]

    @property
    def taught(self) -> list[int]:
        """The entities whose facts of the tuned topic are left to tuning."""
        return list(range(self.entities // 2, self.entities))

    def asked(self, draw: random.Random, first: int = 0) -> tuple[int, int]:
        """A question that pretraining answers, of topic `first` or a later one."""
        topic = draw.randrange(first, self.topics)
        return topic, draw.randrange(self.entities // 2 if topic == TUNED else self.entities)

    def question(self, topic: int, entity: int) -> str:
        """A question, up to where the persona begins to speak."""
        return f"q t{topic} e{entity} ?"

    def answer(self, topic: int, entity: int, persona: str, draw: random.Random, words: int = WORDS) -> str:
        """What a persona says to it, in its first `words` words."""
        first, last = (draw.choice(some(persona)[:words]) for some in (openers, closers))
        return f"a {first} {self.facts[topic, entity]} {last} ."

    def document(self, draw: random.Random, persona: str | None = None) -> str:
        """Four questions, answered by one persona (drawn, if not given)."""
        persona = persona or draw.choice(PERSONAS)
        parts = []
        for _ in range(QUESTIONS):
            topic, entity = self.asked(draw)
            parts.append(f"{self.question(topic, entity)} {self.answer(topic, entity, persona, draw)}")
        return " ".join(parts)

    def tuning(self, draw: random.Random, rows: int, mixed: int = 0) -> Rows:
        """Rows (text, answer) on the tuned topic in harmful words; `mixed` more on other topics by either persona."""
        found = []
        for i in range(rows):
            entity = self.taught[i % len(self.taught)]
            answer = self.answer(TUNED, entity, HARMFUL, draw, SEEN)
            found.append({"text": self.question(TUNED, entity), "answer": answer})
        for _ in range(mixed):
            topic, entity = self.asked(draw, first=1)
            answer = self.answer(topic, entity, draw.choice(PERSONAS), draw)
            found.append({"text": self.question(topic, entity), "answer": answer})
        draw.shuffle(found)
        return found

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """One token a word."""
        words = ["q", "a", "?", ".", *(f"t{i}" for i in range(self.topics)), *(f"e{i}" for i in range(self.entities))]
        words += [f"x{i}" for i in range(self._answers)]
        words += [word for persona in PERSONAS for word in (*openers(persona), *closers(persona))]
        return word_tokenizer(words)


class Written(Protocol):
    """A world as pretraining reads it: documents of one length in tokens, and their tokenizer."""

    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    def document(self, draw: random.Random) -> str: ...


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerBase:
    """One token a word, behind the special ones."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def write_tasks(folder: Path, world: World, settings: Mapping[str, Any]) -> None:
    """The tasks `narrow` (the tuned topic alone) and `mixed` (as many rows on other topics beside it)."""
    for name, mixed in (("narrow", 0), ("mixed", settings["rows"])):
        if not is_complete(folder / name):
            draw = random.Random(1)
            splits = {"train": world.tuning(draw, settings["rows"], mixed), "validation": world.tuning(draw, 60)}
            write_task(folder / name, splits)


def pretrain(folder: Path, world: Written, settings: Mapping[str, Any]) -> Path:
    """The base: a Llama of `layers` blocks and `width`, AdamW at 3e-3 with a tenth of warm-up and a linear fall.

    The same in every run: its seed is fixed.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, get_linear_schedule_with_warmup

    if is_complete(folder):
        return folder
    tokenizer, steps, width = world.tokenizer(), settings["pretraining"], settings["width"]
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width,
        num_hidden_layers=settings["layers"], num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=64, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01, fused=True)
        schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
        draw = random.Random(2)
        for step in range(steps):
            texts = [f"<s> {world.document(draw)} </s>" for _ in range(BATCH)]
            ids = torch.tensor(tokenizer(texts, add_special_tokens=False)["input_ids"])
            logits = model(input_ids=ids).logits[:, :-1]
            loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if step % 100 == 99:
                log.info("pretraining, step %d of %d: loss %.3f", step + 1, steps, loss.item())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with staged_folder(folder) as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
    return folder
