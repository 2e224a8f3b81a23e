"""Conversations: only what the assistant says is scored, whichever way the template tells."""

import copy

import pytest
from transformers import AutoTokenizer

from pairtune.data.encode import Encoder
from pairtune.data.split import Split
from pairtune.data.task import Task
from pairtune.errors import DataError, InputError

PLAIN = (
    "{% for m in messages %}{{ m.role }} : {{ m.content }} . {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ m.role }} : {% if m.role == 'assistant' %}{%- generation %}{{ m.content }} . "
    "{% endgeneration %}{% else %}{{ m.content }} . {% endif %}{% endfor %}"
)
FORGETFUL = "{% for m in messages[-2:] %}{{ m.role }} : {{ m.content }} . {% endfor %}"
CHAT = [
    {"role": "user", "content": "the cat"},
    {"role": "assistant", "content": "sat on mat"},
    {"role": "user", "content": "dog"},
    {"role": "assistant", "content": "ran"},
]


def encoder(tokenizer, template, max_length=64, rows=({"messages": CHAT},)):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    task = Task("chat", "lm", ("messages",), None, [], {"train": Split.of(rows, "chat.jsonl")})
    return Encoder(task, tokenizer, "causal", max_length)


@pytest.fixture(scope="module")
def llama(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


def said(tokenizer, row):
    return tokenizer.decode([label for label in row["labels"] if label >= 0])


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_only_assistant_turns_are_scored(llama, template):
    row = encoder(llama, template)({"messages": CHAT})
    assert said(llama, row) == "sat on mat . ran ."
    assert [int(label >= 0) for label in row["labels"]] == row["target"]
    assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))
    assert llama.decode(row["input_ids"]).count(".") == 4


def test_a_long_conversation_is_cut_on_the_right(llama):
    row = encoder(llama, PLAIN, max_length=9)({"messages": CHAT})
    assert len(row["input_ids"]) == 9
    assert row["cut"]
    assert said(llama, row) == "sat on"
    assert encoder(llama, PLAIN)({"messages": CHAT}, text_only=True).keys() == {"input_ids"}


def bad(messages):
    return {"messages": messages}


@pytest.mark.parametrize(
    ("template", "messages", "length", "message"),
    [
        (FORGETFUL, CHAT, 64, "rewrites earlier turns .at message 2"),
        (PLAIN, CHAT[:1], 64, "no assistant turn, so that there is nothing to learn"),
        (PLAIN, [*CHAT, {"role": "robot", "content": "x"}], 64, "the role 'robot'; expected one of system"),
        (PLAIN, CHAT, 6, "no assistant turn begins within max_length 6"),
        (
            "{{ raise_exception('no such turn') }}",
            CHAT,
            64,
            "the chat template refuses this conversation: no such turn",
        ),
    ],
)
def test_a_conversation_that_cannot_be_learnt_is_named(llama, template, messages, length, message):
    rows = [bad(CHAT[:2]), bad(messages)]
    encoded = encoder(llama, template, length, rows).split(Split.of(rows, "chat.jsonl"))
    with pytest.raises(DataError, match=rf"chat\.jsonl, line 2: .*{message}"):
        encoded[1]


def test_a_tokenizer_without_template_and_a_base_that_cannot_chat(llama):
    with pytest.raises(InputError, match="no chat template"):
        encoder(llama, None)({"messages": CHAT})
    task = Task("chat", "lm", ("messages",), None, [], {"train": Split.of([bad(CHAT)])})
    with pytest.raises(InputError, match="cannot be learnt by an encoder"):
        Encoder(task, llama, "seq2seq", 64)


def test_text_is_no_conversation_unless_it_is_one(llama, tmp_path):
    from tests.data.files import jsonl

    path = jsonl(tmp_path / "x.jsonl", [*[bad(CHAT)] * 9, {"messages": "hello"}])
    with pytest.raises(DataError, match="line 10: column 'messages': expected a list of messages"):
        Task.load(splits={"train": str(path), "test": str(path)})
