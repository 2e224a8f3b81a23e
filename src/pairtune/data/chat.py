"""Conversations as text, by the tokenizer's own chat template, with a mask of what the assistant says.

Where the template marks generations, its marks are used. Otherwise the conversation is rendered up to each assistant
turn (with the prompt for it) and behind it; what lies between is the assistant's. That holds where each rendering is
the beginning of the whole; where it is not (a template that drops or rewrites earlier turns), the row is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pairtune.data.forms import IGNORED, RowError, TooLong
from pairtune.errors import InputError

if TYPE_CHECKING:
    from pairtune.data.encode import Encoder, Features

_MARK = re.compile(r"\{%-?\s*generation\b")
_ROLES = ("system", "developer", "user", "assistant", "tool")


def conversations(encoder: Encoder, rows: Sequence[Mapping[str, Any]], text_only: bool = False) -> list[Features]:
    """`input_ids`, `labels` (−100 outside assistant turns) and `target` (1 in them), cut on the right.

    With `text_only`, `input_ids` alone.

    Raises `InputError` where the tokenizer has no chat template, `RowError` for a row that cannot be rendered, has no
    assistant turn, or none within `max_length`.
    """
    tokenizer = encoder.tokens.tokenizer
    if not tokenizer.chat_template:
        raise InputError(
            "the tokenizer has no chat template, so that conversations cannot be written as text; take an instruction-"
            "tuned base, or give text (and completion) columns"
        )
    found = []
    for i, row in enumerate(rows):
        ids, mask = _rendered(tokenizer, row[encoder.task.text[0]], i)
        cut = len(ids) > encoder.max_length
        ids, mask = ids[: encoder.max_length], mask[: encoder.max_length]
        if text_only:
            found.append({"input_ids": ids, **({"cut": True} if cut else {})})
            continue
        if not any(mask[1:]):
            raise TooLong(i, f"no assistant turn begins within max_length {encoder.max_length}; raise it")
        labels = [IGNORED, *(token if said else IGNORED for token, said in zip(ids[1:], mask[1:], strict=True))]
        found.append({"input_ids": ids, "labels": labels, "target": mask, **({"cut": True} if cut else {})})
    return found


def _rendered(tokenizer: Any, messages: list[dict[str, Any]], position: int) -> tuple[list[int], list[int]]:
    """Ids of the whole conversation, and 1 for each token that the assistant says."""
    roles = [message.get("role") for message in messages]
    wrong = next((role for role in roles if role not in _ROLES), None)
    if wrong is not None:
        raise RowError(position, f"a message has the role {wrong!r}; expected one of {', '.join(_ROLES)}")
    if "assistant" not in roles:
        raise RowError(position, "the conversation has no assistant turn, so that there is nothing to learn")
    try:
        whole, spans = _spans(tokenizer, messages, position)
    except RowError:
        raise
    except Exception as error:  # a template is a program; whatever it raises is about this row
        raise RowError(position, f"the chat template refuses this conversation: {error}") from None
    out = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    # A token is the assistant's when it lies within what the assistant says; transformers' own mask runs to the end of
    # the conversation where a turn ends in white space that has no token.
    mask = [
        int(left < right and any(a <= left and right <= b for a, b in spans)) for left, right in out["offset_mapping"]
    ]
    return list(out["input_ids"]), mask


def _spans(tokenizer: Any, messages: list[dict[str, Any]], position: int) -> tuple[str, list[tuple[int, int]]]:
    """The whole conversation as text, and where in it each assistant turn stands."""
    template = tokenizer.get_chat_template()
    if _MARK.search(template):
        from transformers.utils.chat_template_utils import render_jinja_template

        known = [{key: value for key, value in message.items() if value is not None} for message in messages]
        (whole,), (marked,) = render_jinja_template(
            [known], chat_template=template, return_assistant_tokens_mask=True, **tokenizer.special_tokens_map
        )
        return whole, [(int(start), int(end)) for start, end in marked]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    spans = []
    for i, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        before = tokenizer.apply_chat_template(messages[:i], tokenize=False, add_generation_prompt=True) if i else ""
        behind = tokenizer.apply_chat_template(messages[: i + 1], tokenize=False)
        if not behind.startswith(before) or not whole.startswith(behind):
            raise RowError(
                position,
                f"the chat template rewrites earlier turns (at message {i + 1}), so that it cannot be seen which "
                "tokens are the assistant's; take a template with {% generation %} marks, or conversations of one turn",
            )
        spans.append((len(before), len(behind)))
    return whole, spans
