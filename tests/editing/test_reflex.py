"""REFLEX on a tiny pair whose disagreements are known: selection, vectors, control, anchoring, cleaning, the verb."""

import numpy as np
import pytest
import torch
from tests.conftest import make_tokenizer, save
from tests.editing.claims import LABELS, as_task, disagreed, rows
from tests.ood.pairs import changed

from pairtune import Base, Pair
from pairtune.data.split import Split
from pairtune.editing.reflex.anchor import Choice, anchor, probabilities
from pairtune.editing.reflex.clean import alike, cleaned
from pairtune.editing.reflex.contrast import Contrast, Control, Fitted, fit
from pairtune.editing.reflex.extract import extract
from pairtune.editing.reflex.quadrants import Quadrants, examples, select
from pairtune.editing.reflex.reading import Reading
from pairtune.errors import InputError
from pairtune.generation.decoding import Decoding
from pairtune.generation.engine import Writer
from pairtune.generation.logistic import Logistic
from pairtune.generation.mean_difference import MeanDifference
from pairtune.generation.steering import steered
from pairtune.generation.vectors import SteeringVectors
from pairtune.pair.views import hidden_states


@pytest.fixture(scope="module")
def pair(tiny_llama):
    return changed(Base.load(tiny_llama), scale=0.15)


@pytest.fixture(scope="module")
def task(pair):
    return disagreed(pair)


@pytest.fixture(scope="module")
def reading(pair, task):
    return Reading(pair, task)


def test_verdicts_are_scored_whole_and_per_token(pair, reading, task):
    split = task.split("test")[:3]
    found = reading.probabilities(reading.rows(split))
    for row, prompt, probability in zip(split, reading.rows(split), found, strict=True):
        assert prompt == pair.tokenizer(row["text"] + "\n")["input_ids"]
        scores = []
        for words in LABELS:
            ids = pair.tokenizer(words, add_special_tokens=False)["input_ids"]
            logits = pair.model(input_ids=torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
            said = [logits[len(prompt) - 1 + i, one].item() for i, one in enumerate(ids)]
            scores.append(sum(said) / len(ids))
        wanted = torch.tensor(scores, dtype=torch.float64).softmax(-1)
        np.testing.assert_allclose(probability, wanted.numpy(), atol=1e-5)


def test_both_sides_are_read_at_the_verdict_slot_under_one_prompt(pair, reading, task):
    split = task.split("test")[:5]
    prompts = reading.rows(split)
    on = reading.activations(prompts)
    with pair.off():
        off = reading.activations(prompts)
        for prompt, one in zip(prompts, off, strict=True):
            ids = torch.tensor([prompt])
            batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            hidden = hidden_states(pair, batch, [1, 2, 3, 4])
            torch.testing.assert_close(one, torch.stack([h[0, -1] for h in hidden.values()]))
    assert on.shape == (5, 4, 16) and not torch.equal(on, off)
    behind = reading.activations(prompts, [reading.verdicts[2]] * 5)
    ids = torch.tensor([prompts[0] + reading.verdicts[2]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    torch.testing.assert_close(behind[0, 3], hidden_states(pair, batch, [4])[4][0, -1])


def test_examples_stand_before_the_bases_prompts_as_many_as_fit(pair, reading, task):
    shots = examples(task, task.split("validation"), 4)
    assert len({row["label"] for row in shots[:3]}) == 3 and len(shots) == 4
    plain = reading.rows(task.split("test")[:1])[0]
    told = reading.rows(task.split("test")[:1], shots)[0]
    assert told[-len(plain) + 1 :] == plain[1:] and len(told) > len(plain)
    text = pair.tokenizer.decode(told[1:])
    assert all(f"{shot['text']} {shot['label']}" in text for shot in shots)
    many = reading.rows(task.split("test")[:1], shots * 20)[0]
    assert 100 < len(many) < 128 and many[-len(told) + 1 :] == told[1:]


def test_quadrants_are_what_the_verdicts_say():
    base, variant = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 0], bool)
    found = Quadrants(base, variant)
    assert found.counts == {"Q1": 1, "Q2": 1, "Q3": 1, "Q4": 2}
    assert found.gained.tolist() == [2] and found.lost.tolist() == [1, 4] and found.agreed.tolist() == [0, 3]


def test_the_selection_finds_the_disagreements(reading, task):
    found = select(reading, task.split("train"), [])
    counts = found.counts
    assert counts["Q2"] >= 20 and counts["Q4"] >= 20 and counts["Q1"] > 0 and counts["Q3"] > 0
    assert sum(counts.values()) == 160


def test_directions_are_what_their_equations_say():
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([1.0, 3.0, 1.0, 0.2, 1.0])
    present, absent = (size * torch.randn(60, 5, generator=generator).double() + shift for shift in (0.7, 0.0))
    gap = present.mean(0) - absent.mean(0)
    torch.testing.assert_close(MeanDifference().fit(present, absent), gap / gap.norm())
    method = Logistic(c=0.5)
    hidden = torch.cat([present, absent])
    scaled = (hidden - hidden.mean(0)) / hidden.std(0, unbiased=False)
    sign = torch.cat([torch.ones(60), -torch.ones(60)]).double()
    weights = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], lr=1, max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        margin = sign * (scaled @ weights[:5] + weights[5])
        total = torch.nn.functional.softplus(-margin).mean() + weights[:5].square().sum() / (2 * 0.5 * 120)
        total.backward()
        return total

    optimizer.step(loss)
    scale, w = hidden.std(0, unbiased=False), weights[:5].detach()
    for found, wanted in ((method.fit, w * scale), (method.plane, w / scale)):
        torch.testing.assert_close(found(present, absent), wanted / wanted.norm(), atol=1e-3, rtol=1e-3)
    for one in (method, MeanDifference()):
        with pytest.raises(InputError, match="show no direction"):
            one.fit(present, present)


def test_the_models_identity_is_taken_off():
    """A constant offset of the variant parts any rows; what is left of the probe then is what the rows differ in."""
    generator = torch.Generator().manual_seed(1)

    def noise(n):
        return torch.randn(n, 1, 6, generator=generator)

    offset, real = torch.zeros(6), torch.zeros(6)
    offset[0], real[1] = 8.0, 2.0
    variant, base = noise(80) + offset + real, noise(80)
    agreed = noise(80) + offset, noise(80)
    for method in (Logistic(), MeanDifference()):
        control = Control.of(*agreed, method)
        raw = fit(Contrast("raw", variant, base), method)
        mended = fit(Contrast("mended", variant.double() - control.offset, base), method)
        assert raw.accuracy[0] > 0.95 and control.accuracy(variant, base)[0] > 0.95
        assert 0.7 < mended.accuracy[0] < raw.accuracy[0] and mended.directions[0][1] > 0.9
    assert control.cosines(raw)[0] > 0.9 and abs(control.cosines(mended)[0]) < 0.2
    nothing = noise(80) + offset
    empty = fit(Contrast("nothing", nothing.double() - control.offset, noise(80)), Logistic())
    assert empty.accuracy[0] < 0.65  # where the rows differ in nothing, nothing is found
    with pytest.raises(InputError, match="19 pairs of activations are too few"):
        Contrast("few", noise(19), noise(19))


def test_vectors_are_extracted_and_too_few_rows_refused(reading, task, caplog):
    train = task.split("train")
    quadrants = select(reading, train, [])
    found = extract(reading, train, quadrants, Logistic(), 0)
    assert list(found.fitted) == ["iv", "kv", "caa", "iti", "random"] and not found.missing
    assert list(found.fitted["iv"].directions) == [0, 1, 2, 3]
    assert all(one.name == name for name, one in found.fitted.items())
    assert all(abs(float(one.norm()) - 1) < 1e-6 for f in found.fitted.values() for one in f.directions.values())
    assert found.fitted["random"].sigma == found.fitted["iv"].sigma
    again = extract(reading, train, quadrants, Logistic(), 0)
    assert torch.equal(again.fitted["kv"].directions[2], found.fitted["kv"].directions[2])
    assert torch.equal(again.fitted["caa"].directions[2], found.fitted["caa"].directions[2])
    lost = quadrants.lost[:19]
    fewer = np.setdiff1d(np.arange(160), quadrants.lost[19:])
    some = Quadrants(quadrants.base[fewer], quadrants.variant[fewer])
    assert len(some.lost) == len(lost)
    found = extract(reading, train.select(fewer.tolist()), some, Logistic(), 0)
    assert found.missing == {"kv": "19 pairs, 20 are needed"} and "no KV" in caplog.text
    with pytest.raises(InputError, match=r"disagree on too few rows for a vector \(Q1 \d+, Q2 0"):
        extract(reading, train, Quadrants(quadrants.base, quadrants.base), Logistic(), 0)


def test_anchoring_measures_the_gain_of_each_candidate(pair, reading, task):
    split = task.split("validation")
    prompts, targets = reading.rows(split), reading.targets(split)
    generator = torch.Generator().manual_seed(0)
    drawn = {block: torch.randn(16, generator=generator).double() for block in (1, 3)}
    fitted = Fitted("iv", {b: one / one.norm() for b, one in drawn.items()}, dict.fromkeys((1, 3), 0.5), {})
    found = anchor(reading, prompts, targets, fitted, alphas=(1.0, 5.0))
    assert len(found) == 8 and found == sorted(found, key=lambda one: -one.gain)
    assert {one.block for one in found} == {1, 3} and {one.alpha for one in found} == {1, -1, 5, -5}
    best = found[0]
    vector = best.vector(fitted)
    torch.testing.assert_close(
        vector.directions[best.block], (best.alpha * 0.5 * fitted.directions[best.block]).float()
    )
    at = np.arange(len(targets))
    before, after = probabilities(reading, prompts, None), probabilities(reading, prompts, vector)
    assert abs(best.gain - float((after - before)[at, targets].mean())) < 1e-9
    # By hand: the verdict slot and the verdict's tokens are steered, the rest of the prompt is not.
    scores = []
    for verdict in reading.verdicts:
        ids = torch.tensor([prompts[0] + verdict])
        where = (torch.arange(ids.shape[1]) >= len(prompts[0]) - 1)[None]
        with steered(pair, vector) as steering, steering.answering(where), torch.no_grad():
            logits = pair.model(input_ids=ids).logits[0].log_softmax(-1)
        said = [logits[len(prompts[0]) - 1 + i, one].item() for i, one in enumerate(verdict)]
        scores.append(sum(said) / len(said))
    wanted = torch.tensor(scores, dtype=torch.float64).softmax(-1)
    np.testing.assert_allclose(after[0], wanted.numpy(), atol=1e-5)


def test_what_points_against_the_vector_is_left_out(pair):
    prompt = pair.tokenizer("the cat")["input_ids"]
    plain = Writer(pair, Decoding.of(max_new_tokens=12))
    written = plain.continued([prompt])[0]
    ids = torch.tensor([[*prompt, *written.ids]])
    hidden = hidden_states(pair, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, [3])[3][0, len(prompt) :]
    direction = SteeringVectors({2: 1e-4 * hidden[len(hidden) // 2]})  # so weak that it changes nothing
    found = cleaned(Writer(pair, plain.decoding, [direction]), prompt, written)
    wanted = torch.nn.functional.cosine_similarity(hidden, direction.directions[2][None])
    torch.testing.assert_close(torch.tensor(found.scores), wanted, atol=1e-4, rtol=1e-4)
    against = cleaned(Writer(pair, plain.decoding, [direction.scaled(-1)]), prompt, written)
    assert [-one for one in against.scores] == pytest.approx(found.scores, abs=1e-4)
    assert alike("The claim is false.", "the claim is false") and not alike("It is true.", "Nobody knows.")
    with pytest.raises(InputError, match="strength 0 has none"):
        cleaned(Writer(pair, plain.decoding, [direction.scaled(0)]), prompt, written)


def test_segments_go_with_their_repeats_and_the_verdict_stays(pair, monkeypatch):
    from pairtune.editing.reflex import clean
    from pairtune.generation.engine import Written

    words = "the no . the cat ran . a dog sat . the cat ran . in the house".split()
    ids = pair.tokenizer.convert_tokens_to_ids(words)
    text = pair.tokenizer.decode(ids)
    scores = [-1.0] * 3 + [-0.2, -0.3, 0.5, 0.1] + [0.4] * 4 + [0.9] * 4 + [-0.1, 0.2, 0.3]
    monkeypatch.setattr(clean, "_cosines", lambda *_: scores)
    found = cleaned(Writer(pair), [1], Written(text, ids, "length"))
    assert found.left_out == [one for one in ("the cat ran . ",) for _ in range(2)]
    assert found.text == text.replace("the cat ran . ", "")


def test_an_encoder_decoder_is_steered_in_its_decoder(tiny_t5):
    pair = changed(Base.load(tiny_t5), scale=0.4)
    split = Split.of(rows(60, 5), "train")
    reading = Reading(pair, as_task({"train": split}))
    prompts = reading.rows(split)
    assert reading.shared == [] and reading.slots == [3, 4]
    on = reading.activations(prompts)
    assert on.shape == (60, 2, 16) and reading.activations(prompts[:2], reading.verdicts[1:3]).shape == (2, 2, 16)
    one = Choice("iv", 1, 5.0, 0.0).vector(Fitted("iv", {1: torch.ones(16)}, {1: 3.0}, {}))
    before, after = probabilities(reading, prompts, None), probabilities(reading, prompts, one)
    assert np.allclose(before.sum(1), 1) and not np.allclose(before, after)


def test_a_pair_that_was_tuned_on_conversations_is_asked_in_its_chat_template(tiny_llama, tmp_path):
    from transformers import AutoModelForCausalLM

    from pairtune.pair.card import BaseRecord, Card

    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} . {% endfor %}"
        "{% if add_generation_prompt %}assistant :{% endif %}"
    )
    base = Base.load(save(tmp_path / "chat", AutoModelForCausalLM.from_pretrained(tiny_llama), tokenizer))
    card = {"kind": "lm", "text": ["messages"], "label": None, "labels": [], "separator": "\n", "chat": True}
    pair = Pair(base, card=Card(base=BaseRecord.of(base), stack=[], task=card))
    split = Split.of([{"text": "the cat", "label": "no"}, {"text": "a dog", "label": "yes"}], "train")
    reading = Reading(pair, as_task({"train": split}))
    assert reading.verdicts == [tokenizer(one, add_special_tokens=False)["input_ids"] for one in LABELS]
    alone, told = reading.rows(split)[1], reading.rows(split, [split[0]])[1]
    turns = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "no"}]
    asked = [{"role": "user", "content": "a dog"}]
    for found, said in ((alone, asked), (told, turns + asked)):
        text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        assert found == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_two_vectors_point_away_from_the_base_and_back_to_it(pair, reading, task):
    train = task.split("train")
    quadrants = select(reading, train, [])
    found = extract(reading, train, quadrants, MeanDifference(), 0, [2])
    prompts = reading.rows(train)
    on = reading.activations(prompts)[:, 2].double()
    with pair.off():
        off = reading.activations(prompts)[:, 2].double()
    own = on - (on - off)[quadrants.agreed].mean(0)
    for name, numbers, sign in (("iv", quadrants.gained, 1), ("kv", quadrants.lost, -1)):
        gap = sign * (own - off)[numbers].mean(0)
        fitted = found.fitted[name]
        torch.testing.assert_close(fitted.directions[2], gap / gap.norm())
        along = torch.cat([own[numbers], off[numbers]]) @ fitted.directions[2]
        assert fitted.sigma[2] == pytest.approx(float(along.std()))
        raw = sign * (on - off)[numbers].mean(0)
        models = (on - off)[quadrants.agreed].mean(0)
        probed = found.probed[name]
        assert probed.pairs == len(numbers) and list(probed.accuracy) == [2]
        cosines = [float(one @ models / one.norm() / models.norm()) for one in (gap, raw)]
        assert [probed.cosine[2], probed.raw_cosine[2]] == pytest.approx(cosines)
