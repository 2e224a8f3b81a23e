"""Invariance to a group: exact whatever the weights, equal to the paper's formulas, on images and on words."""

import json

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from pairtune import registry
from pairtune.errors import ConfigError, InputError
from pairtune.pair.base import Base
from pairtune.pair.greedy import greedy
from pairtune.pair.modality import IMAGE
from pairtune.pair.pair import Layer, Pair
from pairtune.tuners.equitune_model import Invariant, InvariantModel, weight_network
from pairtune.tuners.groups import IMAGE_GROUPS, make_group

LABELS = ["a", "b", "c"]
CYCLES = [["cat", "dog", "man", "tree"], ["red", "blue", "green", "big"]]


@pytest.fixture(scope="module")
def tiny_vit(tmp_path_factory):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        num_channels=1, num_labels=3, id2label=dict(enumerate(LABELS)), label2id={n: i for i, n in enumerate(LABELS)},
        problem_type="single_label_classification",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("vit")
    model = ViTForImageClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    processor |= {"image_mean": [0.5], "image_std": [0.5], "do_rescale": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def on(folder, **settings):
    base = Base.load(folder, task="classification", labels=LABELS)
    torch.manual_seed(1)
    tuner = registry.build("tuners", "equitune", settings)
    return base, tuner.install(base, base.model), tuner


def images(count=5):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def cayley(actions):
    """For a group's actions on one asymmetric image: which element is the product of each two."""
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    seen = [action({IMAGE.key: image})[IMAGE.key] for action in actions]

    def of(found):
        return [i for i, one in enumerate(seen) if torch.equal(one, found)]

    return [[of(two({IMAGE.key: one({IMAGE.key: image})[IMAGE.key]})[IMAGE.key]) for two in actions] for one in actions]


@pytest.mark.parametrize("name", IMAGE_GROUPS)
def test_image_groups_are_groups(tiny_vit, name):
    group = make_group(Base.load(tiny_vit), name, [])
    table = cayley(group.actions)
    assert all(len(cell) == 1 for row in table for cell in row)
    everything = list(range(len(group)))
    flat = [[cell[0] for cell in row] for row in table]
    assert flat[0] == everything
    assert all(sorted(row) == everything for row in flat)
    assert all(sorted(column) == everything for column in zip(*flat, strict=True))


@pytest.mark.parametrize("mode", ["lambda", "equitune", "equizero"])
@pytest.mark.parametrize("name", IMAGE_GROUPS)
def test_the_answer_is_the_same_for_every_transformed_input(tiny_vit, name, mode):
    base, installed, _ = on(tiny_vit, group=name, mode=mode)
    x = images()
    with torch.no_grad():
        for parameter in installed.model.side.parameters():
            parameter.add_(torch.randn_like(parameter))
        plain = base.model(pixel_values=x).logits
        one = installed.model(pixel_values=x).logits
        moved = [installed.model(**action({"pixel_values": x})).logits for action in make_group(base, name, []).actions]
    assert (plain.log_softmax(-1) - one).abs().max() > 1e-2
    for other in moved:
        torch.testing.assert_close(other, one, atol=1e-5, rtol=0)


def test_the_combinations_are_those_of_the_paper():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), size=(4, 6))
    answers = torch.tensor(np.log(probabilities), dtype=torch.float32)
    mean = Invariant("equitune", "entropy", None)(answers, None).exp()
    np.testing.assert_allclose(mean, probabilities.mean(0), atol=1e-6)
    entropy = -(probabilities * np.log(probabilities)).sum(-1)
    for proxy, best in (("entropy", entropy.argmin(0)), ("confidence", probabilities.max(-1).argmax(0))):
        selected = Invariant("equizero", proxy, None)(answers, None).exp()
        np.testing.assert_allclose(selected, probabilities[best, np.arange(6)], atol=1e-6)
    score = weight_network(5, 7, 0.0)
    features = torch.randn(4, 6, 5)
    weights = score(features).squeeze(-1).double().softmax(0).detach().numpy()
    found = Invariant("lambda", "entropy", score)(answers, features).exp().detach()
    np.testing.assert_allclose(found, (weights[..., None] * probabilities).sum(0), atol=1e-6)


def test_constant_weights_are_the_mean_and_one_hot_ones_select():
    answers = torch.randn(4, 6, 3).log_softmax(-1)
    constant = Invariant("lambda", "entropy", lambda x: torch.zeros(*x.shape[:-1], 1))  # type: ignore[arg-type]
    torch.testing.assert_close(
        constant(answers, torch.zeros(4, 6, 2)), Invariant("equitune", "entropy", None)(answers, None)
    )
    selecting = Invariant("equizero", "entropy", None)
    chosen = torch.nn.functional.one_hot(selecting.cost(answers).argmin(0), 4).T.unsqueeze(-1) * 1e4
    one_hot = Invariant("lambda", "entropy", lambda x: x)  # type: ignore[arg-type]
    torch.testing.assert_close(one_hot(answers, chosen.float()), selecting(answers, None))


def test_words_turn_together_and_the_answer_stays(tiny_bert):
    base = Base.load(tiny_bert, task="classification", labels=LABELS)
    installed = registry.build("tuners", "equitune", {"group": "words", "cycles": CYCLES, "mode": "equizero"}).install(
        base, base.model
    )
    texts = ["the cat is red", "the dog is blue", "the man is green", "the tree is big"]
    found = base.tokenizer([*texts, "the cat is blue"], return_tensors="pt")
    group = make_group(base, "words", CYCLES)
    turned = group.orbit({"input_ids": found["input_ids"][:1]})["input_ids"]
    assert torch.equal(turned, found["input_ids"][:4])
    with torch.no_grad():
        logits = installed.model(input_ids=found["input_ids"], attention_mask=found["attention_mask"]).logits
    torch.testing.assert_close(logits[1:4], logits[:1].expand(3, -1), atol=1e-5, rtol=0)
    assert (logits[4] - logits[0]).abs().max() > 1e-4


def speaking(folder, **settings):
    base = Base.load(folder)
    torch.manual_seed(1)
    tuner = registry.build("tuners", "equitune", {"group": "words", "cycles": CYCLES, **settings})
    installed = tuner.install(base, base.model)
    with torch.no_grad():
        for parameter in installed.model.side.parameters():
            parameter.add_(torch.randn_like(parameter))
    tokens = make_group(base, "words", CYCLES).tokens
    assert tokens is not None
    return base, installed, tokens


def said(call, ids):
    """log p(next token), [B, T, V], float64."""
    with torch.no_grad():
        return call(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.double().log_softmax(-1)


@pytest.mark.parametrize("mode", ["lambda", "equitune", "equizero"])
def test_a_language_model_says_the_turned_words_of_a_turned_text(tiny_llama, mode):
    base, installed, turns = speaking(tiny_llama, mode=mode)
    text = "the cat is red and the dog was not a big man in blue"
    ids = base.tokenizer(text, return_tensors="pt")["input_ids"]
    found = said(installed.model, ids)
    assert (said(base.model, ids) - found).abs().max() > 1e-2
    for turn in turns[1:]:
        moved = turn[ids]
        assert not torch.equal(moved, ids)
        # What is said of a word is said of the one that takes its place.
        torch.testing.assert_close(said(installed.model, moved)[..., turn], found, atol=1e-5, rtol=0)
        assert (said(base.model, moved)[..., turn] - said(base.model, ids)).abs().max() > 1e-2
    later = ids.clone()
    later[:, -1] = 7
    torch.testing.assert_close(said(installed.model, later)[:, :-1], found[:, :-1], atol=1e-6, rtol=0)


def test_the_words_of_a_language_model_are_combined_as_in_the_paper(tiny_llama):
    ids = torch.tensor([[1, 6, 9, 12, 7, 4], [1, 7, 30, 6, 5, 6]])
    base, installed, turns = speaking(tiny_llama, mode="equitune")
    copies = [said(base.model, turn[ids]) for turn in turns]
    back = torch.stack([copy[..., turn] for copy, turn in zip(copies, turns, strict=True)]).exp()
    torch.testing.assert_close(said(installed.model, ids).exp(), back.mean(0), atol=1e-6, rtol=0)
    _, installed, _ = speaking(tiny_llama, mode="equizero")
    sharpest = (-back * back.log()).sum(-1).argmin(0)
    assert len(sharpest.unique()) > 1
    expected = back.take_along_dim(sharpest[None, ..., None], 0)[0]
    expected[:, 0] = back[:, :, 0].mean(0)  # before the first word of a cycle all copies are one
    torch.testing.assert_close(said(installed.model, ids).exp(), expected, atol=1e-6, rtol=0)


def test_it_writes_what_it_says(tiny_llama):
    base, installed, _ = speaking(tiny_llama, mode="equizero", train="nothing")
    pair = Pair(base, [Layer(installed, lambda: None)])
    rows = [[1, 6, 9, 7], [1, 8, 6]]
    written = greedy(pair, rows, 3, 0)
    for row, following in zip(rows, written, strict=True):
        ids = list(row)
        for _ in range(3):
            ids.append(int(said(pair.model, torch.tensor([ids]))[0, -1].argmax()))
        assert following == ids[len(row) :]
    with pair.off():
        assert greedy(pair, rows, 3, 0) != written


def test_the_gradient_of_a_selection_is_that_of_the_mean(tiny_vit):
    gradients = []
    for mode in ("equizero", "equitune"):
        _, installed, _ = on(tiny_vit, mode=mode)
        installed.model(pixel_values=images()).logits[:, 0].sum().backward()
        gradients.append([p.grad.clone() for _, p in installed.trainable()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)
    assert any(g.abs().max() > 1e-4 for g in gradients[0])


def test_second_phase_keeps_the_weights_of_the_first_and_their_features(tiny_vit):
    base, first, _ = on(tiny_vit)
    before = first.model(pixel_values=images()).logits.detach()
    first.off()
    tuner = registry.build("tuners", "equitune", {"train": "base"})
    with pytest.raises(InputError, match="stage before"):
        tuner.install(base, base.model)
    tuner.follow(first)
    second = tuner.install(base, base.model)
    assert isinstance(second.model, InvariantModel)
    assert not any("side." in name for name, _ in second.trainable())
    torch.testing.assert_close(second.model(pixel_values=images()).logits, before)
    features = second.model._read({"pixel_values": images()}, frozen=True)[0]
    with torch.no_grad():
        for _, parameter in second.trainable():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert torch.equal(second.model._read({"pixel_values": images()}, frozen=True)[0], features)
    assert not torch.equal(second.model._read({"pixel_values": images()})[0], features)


def test_saved_weights_load_with_equal_answers(tiny_vit, tmp_path):
    base, first, tuner = on(tiny_vit, train="both")
    pair = Pair(base, [Layer(first, lambda: tuner.extract(first), {"tuner": {"name": "equitune"}})])
    with torch.no_grad():
        for _, parameter in first.trainable():
            parameter.add_(0.1 * torch.randn_like(parameter))
        expected = pair.model(pixel_values=images()).logits
    first.write(tmp_path)
    again = Base.load(tiny_vit, task="classification", labels=LABELS)
    restored = tuner.restore(again, again.model, tmp_path)
    assert torch.equal(restored.model(pixel_values=images()).logits, expected)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mode": "equizero", "train": "weights"}, "has no weights to train"),
        ({"mode": "lambda", "train": "nothing"}, "have to be trained"),
        ({"group": "words"}, "cycles: needed by the group words"),
        ({"cycles": [["a", "b"]]}, "and by no other"),
        ({"group": "words", "cycles": [["a", "b"], ["c"]]}, "all of one length"),
    ],
)
def test_settings_that_cannot_be(settings, says):
    with pytest.raises(ConfigError, match=says):
        registry.build("tuners", "equitune", settings)


def test_misfits_are_refused(tiny_vit, tiny_bert):
    text = Base.load(tiny_bert, task="classification", labels=LABELS)
    with pytest.raises(InputError, match="turns images"):
        make_group(text, "rot90", [])
    with pytest.raises(InputError, match="reads images"):
        make_group(Base.load(tiny_vit), "words", CYCLES)
    with pytest.raises(InputError, match="'zebra' is no token"):
        make_group(text, "words", [["cat", "zebra"]])
    with pytest.raises(InputError, match="one token"):
        make_group(text, "words", [["cat", "dog"], ["cat", "red"]])
    with pytest.raises(InputError, match="new head"):
        registry.build("tuners", "equitune", {"group": "words", "cycles": CYCLES}).install(text, text.model)
    group = make_group(Base.load(tiny_vit), "rot90", [])
    with pytest.raises(InputError, match="square"):
        group.orbit({"pixel_values": torch.zeros(1, 1, 8, 12)})
