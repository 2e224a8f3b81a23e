"""Writing: greedy, drawn, by beam search; alone or in a batch, with a delta on, off and behind the head."""

import pytest
import torch
from tests.conftest import make_tokenizer, save
from tests.ood.pairs import changed

from pairtune import Base, Pair, generate
from pairtune.errors import ConfigError, DataError, InputError, MissingView
from pairtune.generation.decoding import Decoding
from pairtune.generation.engine import Writer
from pairtune.pair.installed import Installed
from pairtune.pair.pair import Layer

PROMPTS = ["the cat sat on", "who is the old man by the river", "a", "please open the account with the card"]


@pytest.fixture(scope="module")
def pair(tiny_llama):
    return changed(Base.load(tiny_llama))


def plainly(pair, prompt, count):
    """The likeliest tokens one after the other, by whole passes of the side that is on."""
    ids = torch.tensor([pair.tokenizer(prompt)["input_ids"]])
    start = ids.shape[1]
    for _ in range(count):
        following = pair.model(input_ids=ids).logits[:, -1].argmax(-1)
        if following.item() == pair.tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, following[:, None]], 1)
    return pair.tokenizer.decode(ids[0, start:], skip_special_tokens=True)


@torch.no_grad()
def test_greedy_writing_is_the_likeliest_token_each_time_on_either_side(pair):
    on = generate(pair, PROMPTS, max_new_tokens=6)
    assert on == [plainly(pair, prompt, 6) for prompt in PROMPTS]
    with pair.off():
        off = generate(pair, PROMPTS, max_new_tokens=6)
        assert off == [plainly(pair, prompt, 6) for prompt in PROMPTS]
    assert off != on


def test_what_is_drawn_depends_on_seed_and_prompt_alone(pair):
    how = {"max_new_tokens": 8, "temperature": 1.5, "top_k": 30}
    together = generate(pair, PROMPTS, seed=1, **how)
    assert together == [generate(pair, prompt, seed=1, **how)[0] for prompt in PROMPTS]
    torch.manual_seed(9)
    assert generate(pair, PROMPTS[::-1], seed=1, **how) == together[::-1]
    assert generate(pair, PROMPTS, seed=2, **how) != together


def test_drawing_follows_the_models_probabilities(pair):
    ids = pair.tokenizer("the cat")["input_ids"]
    with torch.no_grad():
        wanted = pair.model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
    rows = [Writer(pair, Decoding.of(max_new_tokens=1, temperature=1, seed=i)).continued([ids])[0] for i in range(120)]
    likely = int(wanted.argmax())
    share = sum(row.ids == [likely] for row in rows) / len(rows)
    assert abs(share - float(wanted[likely])) < 4 * (0.25 / len(rows)) ** 0.5
    one = Writer(pair, Decoding.of(max_new_tokens=1, temperature=1, top_k=1)).continued([ids])[0]
    assert one.ids == [likely]


def test_a_beam_search_finds_what_transformers_finds(pair):
    ids = torch.tensor([pair.tokenizer(PROMPTS[0])["input_ids"]])
    wanted = pair.base.model.generate(ids, attention_mask=torch.ones_like(ids), num_beams=3, max_new_tokens=5)
    text = pair.tokenizer.decode(wanted[0, ids.shape[1] :], skip_special_tokens=True)
    assert generate(pair, PROMPTS[0], beams=3, max_new_tokens=5) == [text]


def test_an_encoder_decoder_writes_too(tiny_t5):
    pair = changed(Base.load(tiny_t5))
    found = generate(pair, PROMPTS, max_new_tokens=5)
    assert found == [generate(pair, prompt, max_new_tokens=5)[0] for prompt in PROMPTS] and any(found)


def test_writing_stops_at_a_text_and_says_why(pair):
    writer = Writer(pair, Decoding.of(max_new_tokens=8))
    whole = writer.write(PROMPTS[:1])[0]
    assert whole.ended in ("length", "end")
    words = whole.text.split()
    stopped = Writer(pair, Decoding.of(max_new_tokens=8, stop=(words[2],))).write(PROMPTS[:2])[0]
    first = words.index(words[2])
    assert stopped.ended == "stop" and stopped.text.split() == words[:first] and words[2] not in stopped.text
    assert stopped.ids == whole.ids[: len(stopped.ids)]


def test_what_is_shown_while_writing_is_the_text(pair):
    shown = []
    for stop in ((), (generate(pair, PROMPTS[0], max_new_tokens=8)[0].split()[3],)):
        writer = Writer(pair, Decoding.of(max_new_tokens=8, stop=stop))
        shown.clear()
        assert writer.stream(PROMPTS[0], shown.append).text == "".join(shown).rstrip("\n")
        assert writer.write(PROMPTS[:1])[0].text == "".join(shown)
    with pytest.raises(InputError, match="cannot be shown before its end"):
        Writer(pair, Decoding.of(beams=2)).stream(PROMPTS[0], shown.append)


class _Turned(Installed):
    """A delta behind the head: all logits change their sign."""

    def on(self):
        pass

    def off(self):
        pass


class _Module(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, **inputs):
        out = self.inner(**inputs)
        out.logits = -out.logits
        return out


def test_a_delta_behind_the_head_is_run_whole(tiny_llama):
    base = Base.load(tiny_llama)
    pair = Pair(base, [Layer(_Turned(_Module(base.model), {"tokens", "moves_logits"}), lambda: None)])
    with torch.no_grad():
        assert generate(pair, PROMPTS, max_new_tokens=4) == [plainly(pair, prompt, 4) for prompt in PROMPTS]
    assert generate(pair, PROMPTS, max_new_tokens=4, temperature=1, seed=3) == [
        generate(pair, prompt, max_new_tokens=4, temperature=1, seed=3)[0] for prompt in PROMPTS
    ]
    with pytest.raises(InputError, match="a beam search does not see"):
        generate(pair, PROMPTS, beams=2)


def test_prompts_are_laid_out_as_tuned_as_a_chat_or_as_they_are(tiny_llama, tmp_path):
    from transformers import AutoModelForCausalLM

    from pairtune.pair.card import BaseRecord, Card

    base = Base.load(tiny_llama)
    task = {"name": "t", "kind": "lm", "text": ["text"], "label": "answer", "labels": [], "separator": " yes "}
    tuned = Pair(base, card=Card(base=BaseRecord.of(base), stack=[], task=task))
    ids = tuned.tokenizer("the cat yes")["input_ids"]
    assert Writer(tuned).prompts.ids("the cat") == ids
    assert Writer(tuned, raw=True).prompts.ids("the cat") == ids[:-1]
    assert Writer(tuned).prompts.ids(("the", "cat")) == tuned.tokenizer("the yes cat yes")["input_ids"]
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} . {% endfor %}"
        "{% if add_generation_prompt %}assistant :{% endif %}"
    )
    folder = save(tmp_path / "chat", AutoModelForCausalLM.from_pretrained(tiny_llama), tokenizer)
    chat = Writer(Pair(Base.load(folder))).prompts
    turns = [{"role": "user", "content": "the cat"}]
    assert chat.ids("the cat") == chat.ids(turns) == chat.ids([*turns, {"role": "assistant", "content": "no"}])
    assert chat.ids("the cat") != ids[:-1]
    with pytest.raises(InputError, match="which this base does not have"):
        Writer(Pair(base)).prompts.ids(turns)


def test_a_long_prompt_gets_what_room_there_is_and_a_longer_one_is_refused(pair):
    writer = Writer(pair, Decoding.of(max_new_tokens=50))
    text = "the cat " * 60
    (long, short) = writer.write([text, "the cat"])
    assert len(long.ids) <= 7 and writer.write([text])[0] == long and writer.write(["the cat"])[0] == short
    with pytest.raises(DataError, match="128 positions are all that the base has"):
        writer.write(["the cat " * 64])


def test_what_cannot_be_is_refused(pair, tiny_bert):
    with pytest.raises(MissingView, match="is an encoder, which has nothing to write with"):
        Writer(Pair(Base.load(tiny_bert)))
    for wrong, said in (
        ({"top_k": 3}, "give a temperature above 0"),
        ({"beams": 2, "temperature": 1}, "leave temperature out, or beams"),
        ({"stop": ("",)}, "would stop everything"),
        ({"max_new_tokens": 0}, "max_new_tokens: "),
        ({"warmth": 1}, "warmth: there is no such setting"),
    ):
        with pytest.raises(ConfigError, match=said):
            generate(pair, "a", **wrong)
