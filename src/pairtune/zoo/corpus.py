"""Build the pretraining corpus of the zoo: read, remove overlap with test sets, split, train the tokenizer, tokenise.

`python -m pairtune.zoo.corpus --packages DIR --avoid FILES... --out DIR` writes `tokenizer/`, `train.bin` (uint16
tokens in the order of training, documents between BOS and EOS), `heldout-<source>.bin` and `manifest.json`.
The order is baked into the file, so that a run is described by one number, how many tokens it has read.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pairtune.zoo.corpus_sources import SOURCES

SPECIAL = ("<s>", "</s>", "<pad>")
NGRAM = 8


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


class Avoid:
    """What must not be in the training text: the word 8-grams and the exact short sentences of test splits."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.ngrams: set[int] = set()
        self.short: set[str] = set()
        self.dropped: Counter[str] = Counter()
        for path in files:
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                for line in lines:
                    for text in _strings(json.loads(line)):
                        self._add(words_of(text))

    def _add(self, words: list[str]) -> None:
        if len(words) >= NGRAM:
            self.ngrams.update(hash(tuple(words[i : i + NGRAM])) for i in range(len(words) - NGRAM + 1))
        if 3 <= len(words) <= 12:
            self.short.add(" ".join(words))

    def clean(self, source: str, document: str) -> str:
        """The document without the lines that occur in a test split."""
        kept = []
        for line in document.split("\n"):
            words = words_of(line)
            hit = any(hash(tuple(words[i : i + NGRAM])) in self.ngrams for i in range(len(words) - NGRAM + 1))
            if hit or " ".join(words) in self.short:
                self.dropped[source] += 1
            else:
                kept.append(line)
        return "\n".join(kept)


def _strings(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from _strings(v)
    elif isinstance(value, list):
        for v in value:
            yield from _strings(v)


def train_tokenizer(texts: Iterable[str], size: int, out: Path) -> None:
    """A byte-level BPE: every byte string has an encoding, so no text of a user is out of vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        show_progress=False,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[(SPECIAL[0], 0)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(out)


def _is_heldout(document: str) -> bool:
    """One document in a hundred, by its content, so that a repeat of the build holds out the same ones."""
    return zlib.crc32(document.encode()) % 100 == 0


def build(packages: Path, avoid: Avoid, out: Path, vocabulary: int) -> dict:
    """Read every source, write the binary files and return the manifest."""
    train: dict[str, list[str]] = {}
    heldout: dict[str, list[str]] = {}
    for source in SOURCES:
        seen: set[str] = set()
        for document in source.read(packages):
            document = avoid.clean(source.name, document)
            if len(document) < 20 or document in seen:
                continue
            seen.add(document)
            (heldout if _is_heldout(document) else train).setdefault(source.name, []).append(document)
        kept, dropped = len(train.get(source.name, [])), avoid.dropped[source.name]
        print(f"{source.name}: {kept:,} documents, {dropped:,} lines dropped", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "tokenizer").exists():
        # a share of every source: the vocabulary should fit modern short sentences, not only the stories
        sample = [d for name, docs in train.items() for d in docs[:: 3 if name == "stories" else 1]]
        train_tokenizer(sample, vocabulary, out / "tokenizer")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(out / "tokenizer/tokenizer.json"))
    rng = random.Random(0)
    pieces: list[np.ndarray] = []
    manifest: dict = {"sources": {}, "vocabulary": tokenizer.get_vocab_size()}
    for source in SOURCES:
        documents = train.get(source.name, [])
        rng.shuffle(documents)
        encoded, total = [], 0
        for e in tokenizer.encode_batch(documents):
            if total >= source.most_tokens:
                break
            encoded.append(np.array([*e.ids, 1], np.uint16))
            total += len(encoded[-1])
        pieces += encoded * source.repeats
        held_documents = heldout.get(source.name, [])
        held = [np.array([*e.ids, 1], np.uint16) for e in tokenizer.encode_batch(held_documents)]
        held_all = np.concatenate(held) if held else np.zeros(0, np.uint16)
        held_all.tofile(out / f"heldout-{source.name}.bin")
        manifest["sources"][source.name] = {
            "unique_tokens": total,
            "repeats": source.repeats,
            "tokens": total * source.repeats,
            "licence": source.licence,
            "origin": source.origin,
            "lines_dropped_for_overlap": avoid.dropped[source.name],
            "heldout_tokens": int(held_all.size),
            "heldout_bytes": sum(len(d.encode()) for d in held_documents),
        }
        print(source.name, f"{total:,} x {source.repeats}", flush=True)
    rng.shuffle(pieces)
    everything = np.concatenate(pieces)
    everything.tofile(out / "train.bin")
    manifest["tokens"] = int(everything.size)
    manifest["checksum"] = zlib.crc32(everything.tobytes())
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True, help="folder of unpacked packages")
    parser.add_argument("--avoid", type=Path, nargs="*", default=[], help="jsonl.gz test splits to keep out")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=8192)
    args = parser.parse_args()
    manifest = build(args.packages, Avoid(args.avoid), args.out, args.vocabulary)
    print(f"{manifest['tokens']:,} tokens")


if __name__ == "__main__":
    main()
