"""Rows of a task to what a model reads: lists of token ids and labels, as Python numbers.

How a row becomes text is said in `verbalise.py`; here texts become ids, lengths are bounded, and labels are laid on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from pairtune.data import forms
from pairtune.data.chat import conversations
from pairtune.data.encoded import Encoded
from pairtune.data.split import Split
from pairtune.data.task import Task
from pairtune.data.tokens import Tokens
from pairtune.data.verbalise import verbalise
from pairtune.errors import DataError, InputError
from pairtune.pair.modality import MODALITIES
from pairtune.pair.processor import Processor

Features = dict[str, Any]
FAMILIES = ("encoder", "causal", "seq2seq")


class Encoder:
    """One task for one tokenizer and model family.

    Features of a row (lists of one length, unless said otherwise):
        input_ids: token ids; of an image or sound instead, under its modality's key, what the processor makes of it.
        token_type_ids: where the tokenizer makes them, for encoders.
        label: view "labels": class index, number, or one 0.0 / 1.0 a class; absent where the row has none.
        (view "masked", of encoders on plain text: the inputs alone; `masking.py` hides some of them.)
        labels: view "tokens": the ids to predict, −100 where nothing is scored. Causal: aligned with `input_ids`, its
            first never scored; seq2seq: the target's ids.
        target: causal: 1 for the tokens of the completion (label or target and end token, assistant turns), else 0.
        cut: True where the row was longer than `max_length`.

    Args:
        tokenizer: the base's tokenizer, or its processor where it reads images or sound.
        family: "encoder", "causal" or "seq2seq".
        max_length: the most tokens of a row; images and sound have as many positions as the base makes of them.
            Encoders and plain texts are cut on the right (a cut plain text has no end token), prompts on the left so
            that the completion is whole; a conversation on the right.
        view: "labels" for a head over classes or numbers, "tokens" for a language-model head, "masked" for an encoder's
            over hidden tokens; None takes labels on encoders and tokens on language models.
        completion_only: whether the completion alone is scored; None: for "lm" with a completion yes, for
            classification no (text and label are learnt, so that the text's likelihood means something).
        chat: whether the text column is a conversation; None: as the rows are.

    Raises `InputError` for a task that this family cannot learn in this view.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: Any,
        family: str,
        max_length: int,
        *,
        view: str | None = None,
        completion_only: bool | None = None,
        chat: bool | None = None,
    ):
        if family not in FAMILIES:
            raise InputError(f"family: expected one of {', '.join(FAMILIES)}, found {family!r}")
        self.task, self.family, self.max_length = task.on(family), family, max_length
        self.view = view or ("labels" if family == "encoder" else "tokens")
        self.processor: Processor | None = tokenizer if isinstance(tokenizer, Processor) else None
        self._refuse_other_modality()
        self.chat = task.is_chat if chat is None else chat
        self.completion_only = self.task.kind == "lm" if completion_only is None else completion_only
        if self.processor is None:
            self.tokens = Tokens(cast("Any", tokenizer))
        self._refuse_misfits()
        if self.view == "tokens" and self.task.kind == "classification":
            self._label_words = verbalise(self.task.labels)
            self._check_labels()

    def _refuse_other_modality(self) -> None:
        reads = "text" if self.processor is None else self.processor.modality.name
        if reads != self.task.modality:
            base, holds = MODALITIES[reads], MODALITIES[self.task.modality]
            raise InputError(f"{self.task.name}: the base reads {base.many}, the task holds {holds.many}")

    def _refuse_misfits(self) -> None:
        kind, name = self.task.kind, self.task.name
        headed = kind not in ("lm", "seq2seq")
        if self.view == "labels" and not headed and self.family == "encoder":
            raise InputError(
                f"{name}: plain text has no labels to compare an encoder's answers with; how well it says hidden ones "
                "stands in the pair's card, and answers are compared on a task with labels"
            )
        if self.view == "labels" and not headed:
            raise InputError(f"{name}: {kind} tasks have no classes or numbers for a head; they need the tokens view")
        if self.view == "masked" and (self.family != "encoder" or headed or self.chat):
            raise InputError(f"{name}: hidden tokens are learnt by encoders from plain text; take another objective")
        if self.view == "tokens" and (self.family == "encoder" or (headed and kind != "classification")):
            why = (
                "an encoder has no language-model head"
                if self.family == "encoder"
                else f"{kind} cannot be said as text"
            )
            raise InputError(f"{name}: {why}; take the labels view (a head)")
        if self.chat and (self.family, kind) != ("causal", "lm"):
            raise InputError(f"{name}: conversations are learnt by causal language models, the base is {self.family}")

    def _check_labels(self) -> None:
        seen: dict[tuple[int, ...], str] = {}
        for label, ids in zip(self.task.labels, self.completions, strict=True):
            if tuple(ids) in seen:
                raise InputError(
                    f"the labels {seen[tuple(ids)]!r} and {label!r} have the same tokens for this tokenizer, so that "
                    "the model cannot tell them apart; rename one"
                )
            seen[tuple(ids)] = label
        if self.family == "causal" and self.room < 1:
            raise InputError(
                f"max_length {self.max_length} leaves no room for a text beside the longest label "
                f"({max(map(len, self.completions))} tokens); raise it"
            )

    @cached_property
    def completions(self) -> list[list[int]]:
        """Classification as text: the ids that follow a text for each label, separator and end token included."""
        if self.family == "seq2seq":
            return self.tokens.targets(self._label_words)
        said = [self.task.separator + words for words in self._label_words]
        return [self.tokens.ended(ids) for ids in self.tokens.plain(said)]

    @cached_property
    def room(self) -> int:
        """Classification as text: the tokens that a text may have, so that any label fits behind it."""
        return self.max_length - len(self.tokens.start) - max(map(len, self.completions))

    def ranking(self) -> tuple[list[int], list[list[int]]]:
        """To rank labels by log p(label | text): the ids that all labels begin with, and the rest of each.

        The first (the separator, on a causal model) belong behind the ids of the text alone; their probability is the
        same for every label and changes no ranking.
        """
        ids, shared = self.completions, 0
        while self.family == "causal" and all(len(one) > shared + 1 and one[shared] == ids[0][shared] for one in ids):
            shared += 1
        return ids[0][:shared], [one[shared:] for one in ids]

    @property
    def cuts_left(self) -> bool:
        """Whether a row that is too long loses its beginning."""
        return self.family == "causal" and self.view == "tokens" and self.task.label is not None

    def __call__(self, row: Mapping[str, Any], index: int | None = None, *, text_only: bool = False) -> Features:
        """The features of one row. Raises `DataError` for a completion that does not fit into `max_length`."""
        try:
            return self.many([row], None if index is None else [index], text_only=text_only)[0]
        except forms.RowError as error:
            raise DataError(error.message) from None

    def many(
        self, rows: Sequence[Mapping[str, Any]], indices: Sequence[int] | None = None, *, text_only: bool = False
    ) -> list[Features]:
        """The features of several rows, tokenised together.

        Args:
            indices: the rows' numbers, which become `index`.
            text_only: the text without label or completion (and without an end token), to score it: exactly the
                beginning of the row that is trained on.

        Raises `forms.RowError` with the place among the rows.
        """
        if self.view == "masked":
            found = forms.sources(self, rows)
        elif self.view == "labels":
            found = forms.sources(self, rows) if text_only else forms.labelled(self, rows)
        elif self.family == "seq2seq":
            found = forms.sources(self, rows) if text_only else forms.translated(self, rows)
        elif self.chat:
            found = conversations(self, rows, text_only)
        else:
            found = forms.continued(self, rows, text_only)
        if indices is not None:
            for features, index in zip(found, indices, strict=True):
                features["index"] = int(index)
        return found

    def split(self, split: Split, *, text_only: bool = False) -> Encoded:
        """A split's rows as features, encoded when asked for."""
        return Encoded(split, self, text_only)
