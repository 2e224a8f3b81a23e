"""What the side of a pair that is on writes behind prompts: greedily, drawn, by beam search; steered or not.

transformers' `generate` does the writing, with its cache. A delta that moves logits behind the head is beyond it, and
is run whole for every token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pairtune.data.buckets import WRITING, batches
from pairtune.errors import InputError
from pairtune.generation.decoding import Decoding, processors
from pairtune.generation.prompts import Prompt, Prompts
from pairtune.generation.steering import Positions, steered
from pairtune.pair.greedy import by_logits, ends_of, padded, until
from pairtune.pair.pair import evaluating

if TYPE_CHECKING:
    from pairtune.generation.vectors import SteeringVectors
    from pairtune.pair.pair import Pair

Ended = Literal["end", "stop", "length"]
# What a model's own configuration may say of how to choose, at the values that do nothing.
NEUTRAL: dict[str, Any] = {
    "do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
    "length_penalty": 1.0, "min_length": 0, "early_stopping": False, "num_return_sequences": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """What was written behind one prompt.

    Attributes:
        text: without special tokens, and without the text at which it stopped.
        ids: the tokens that the text was decoded from.
        ended: "end" (the model's end token), "stop" (a text at which to stop) or "length".
    """

    text: str
    ids: list[int]
    ended: Ended


class Writer:
    """Writes behind prompts.

    Args:
        vectors: added while writing, at the positions named. raw: texts are read as they are (see `prompts.py`).

    Raises `MissingView` for a model that does not write, `InputError` for vectors of another base's shape or a beam
    search on a delta that moves logits behind the head.
    """

    def __init__(
        self,
        pair: Pair,
        decoding: Decoding | None = None,
        vectors: Sequence[SteeringVectors] = (),
        positions: Positions = "generated",
        raw: bool = False,
    ):
        self.pair, self.decoding, self.prompts = pair, decoding or Decoding.of(), Prompts(pair, raw)
        self.vectors: list[SteeringVectors] = list(vectors)
        self.positions: Positions = positions
        for one in self.vectors:
            one.check_shape(pair.base)
        if self.decoding.beams > 1 and not pair.by_head:
            raise InputError("this delta moves logits behind the head, which a beam search does not see; leave it out")
        tokenizer = pair.tokenizer
        ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self._pad = next(one for one in ids if one is not None)

    def write(self, prompts: Sequence[Prompt]) -> list[Written]:
        """What is written behind each prompt. Raises as `Prompts.ids`."""
        return self.continued([self.prompts.ids(prompt) for prompt in prompts])

    def continued(self, rows: Sequence[Sequence[int]]) -> list[Written]:
        """The same behind rows of ids; rows of similar length and equal room are written to together."""
        found: dict[int, Written] = {}
        for places, room in self._plan(rows):
            chosen = [rows[i] for i in places]
            found.update(zip(places, map(self._finished, self._run(chosen, room)), strict=True))
        return [found[i] for i in range(len(rows))]

    def stream(self, prompt: Prompt, show: Callable[[str], None]) -> Written:
        """The same behind one prompt; `show` is given each piece of the text as soon as it is settled.

        Raises `InputError` where nothing can be shown before the end: in a beam search, or for a delta that moves
        logits behind the head.
        """
        from pairtune.generation.streaming import Pieces

        if self.decoding.beams > 1 or not self.pair.by_head:
            raise InputError("what a beam search, or a delta behind the head, writes cannot be shown before its end")
        ids = self.prompts.ids(prompt)
        room = self.prompts.room(ids, self.decoding.max_new_tokens)
        pieces = Pieces(self.pair.tokenizer, self.decoding.stop, show)
        return self._finished(self._run([ids], room, pieces)[0])

    @property
    def streams(self) -> bool:
        """Whether `stream` works here."""
        return self.decoding.beams == 1 and self.pair.by_head

    def _plan(self, rows: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], int]]:
        by_room: dict[int, list[int]] = {}
        for i, ids in enumerate(rows):
            by_room.setdefault(self.prompts.room(ids, self.decoding.max_new_tokens), []).append(i)
        for room, places in by_room.items():
            lengths = [(len(rows[i]) + room) * self.decoding.beams for i in places]
            for batch in batches(lengths, WRITING)[0]:
                yield [places[i] for i in batch], room

    @torch.inference_mode()
    def _run(self, rows: Sequence[Sequence[int]], room: int, streamer: Any = None) -> list[list[int]]:
        """The ids written behind each row, end tokens and padding included."""
        from transformers import LogitsProcessorList, StoppingCriteriaList

        pair, decoding = self.pair, self.decoding
        ids, mask = padded(rows, self._pad, pair.base.device)
        causal = pair.base.family == "causal"
        start = ids.shape[1] if causal else 1  # an encoder-decoder's text begins with its start token
        chosen: Any = LogitsProcessorList(processors(decoding, rows))
        stops: Any = StoppingCriteriaList()
        if decoding.stop:
            stops.append(_Stops(pair.tokenizer, decoding.stop, start))
        adding = steered(pair, self.vectors, self.positions) if self.vectors else nullcontext()
        with evaluating(pair.model), adding as steering:
            if not pair.by_head:
                with steering.answering(start) if steering else nullcontext():
                    found = by_logits(pair, ids, mask, room, chosen, stops)
            else:
                model: Any = pair.model if hasattr(pair.model, "generate") else pair.base.model
                found = model.generate(
                    input_ids=ids, attention_mask=mask, generation_config=self._config(room),
                    logits_processor=chosen, stopping_criteria=stops, streamer=streamer,
                )  # fmt: skip
        return found[:, start:].tolist()

    def _config(self, room: int) -> Any:
        """What transformers takes: special ids and bans stay the model's, its ways of choosing do not."""
        from transformers import GenerationConfig

        own = {name: value for name, value in (self.pair.generation or {}).items() if name.endswith("_token_id")}
        own |= {"eos_token_id": sorted(ends_of(self.pair)) or None, "pad_token_id": self._pad}
        return GenerationConfig(**own, **NEUTRAL, num_beams=self.decoding.beams, max_new_tokens=room)

    def _finished(self, row: list[int]) -> Written:
        ids = until(row, ends_of(self.pair))
        text = self._text(ids)
        places = [at for at in (text.find(stop) for stop in self.decoding.stop) if at >= 0]
        if not places:
            return Written(text, ids, "end" if len(ids) < len(row) else "length")
        kept = text[: min(places)]
        count = next(n for n in range(len(ids) + 1) if len(self._text(ids[:n])) >= len(kept))
        return Written(kept, ids[:count], "stop")

    def _text(self, ids: list[int]) -> str:
        return self.pair.tokenizer.decode(ids, skip_special_tokens=True)


class _Stops:
    """A stopping criterion: whether a row has one of some texts in what is written behind its prompt.

    transformers' own reads the vocabulary, which fails for tokenizers whose tokens are words.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str], start: int):
        self._tokenizer, self._texts, self._start = tokenizer, texts, start
        self._tail = max(map(len, texts)) + 16  # tokens that hold the longest text, and some that say nothing

    def __call__(self, ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        written = ids[:, self._start :][:, -self._tail :].tolist()
        said = self._tokenizer.batch_decode(written, skip_special_tokens=True)
        return torch.tensor([any(text in one for text in self._texts) for one in said], device=ids.device)


def generate(
    pair: Pair,
    prompts: Prompt | Sequence[Prompt],
    *,
    vectors: Sequence[SteeringVectors] = (),
    positions: Positions = "generated",
    raw: bool = False,
    **decoding: Any,
) -> list[str]:
    """What the side of a pair that is on writes behind prompts, in their order.

    Args:
        prompts: one text, or a list of texts and conversations.
        vectors, positions, raw: as in `Writer`. decoding: see `Decoding` (max_new_tokens, temperature, beams, ...).

    Raises as `Writer` and `Prompts.ids`; `ConfigError` for wrong settings.
    """
    writer = Writer(pair, Decoding.of(**decoding), vectors, positions, raw)
    given = [prompts] if isinstance(prompts, str) else list(prompts)
    return [one.text for one in writer.write(given)]  # type: ignore[arg-type]
