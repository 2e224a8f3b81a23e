"""Editing against the paper's algorithm written out plainly, and what an edited pair promises."""

import os
import signal

import numpy as np
import pytest
import torch
from tests.conftest import save
from torch.nn import functional as F

from pairtune import Pair, edit
from pairtune.data.fact_tokens import FactTokens
from pairtune.data.facts import Facts
from pairtune.editing.locft.batches import EditBatches
from pairtune.editing.locft.loop import Loop
from pairtune.editing.locft.optimizer import Master
from pairtune.editing.locft.ways import WAYS
from pairtune.errors import ConfigError, DataError, InputError, NonFiniteError, ResumeMismatch
from pairtune.pair.base import Base
from pairtune.pair.pair import Layer
from pairtune.training.signals import Stopped
from pairtune.tuners.located import Located

PLACE = "3:mlp.down_proj"
NAME = "model.layers.3.mlp.down_proj.weight"
ROWS = [
    {"prompt": "the cat is", "target": "red", "rephrase": "a cat is"},
    {"prompt": "what is the man of the house", "target": "old man"},
    {"prompt": "my", "target": "blue"},
    {"prompt": "the dog sat on", "target": "a big green mat"},
    {"prompt": "we", "target": "ran by night"},
]
FEW = ROWS[:3]


@pytest.fixture(scope="module")
def sharp(tiny_llama, tmp_path_factory):
    """The tiny decoder with a final norm of eight times the gain: as it is, no answer can become sure enough."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        model.model.norm.weight.mul_(8)
    return save(tmp_path_factory.mktemp("sharp"), model, AutoTokenizer.from_pretrained(tiny_llama))


def plainly(base, method, lr, epochs, size=1, seed=0):
    """The algorithm with a loop a row and no padding: the values of the tuned matrix."""
    pairs = FactTokens(base.tokenizer, 128).pairs(Facts.read(FEW))
    value = base.parameters[NAME].detach().clone().requires_grad_()

    def loss(numbers):
        each = []
        for prompt, target in (pairs[i] for i in numbers):
            ids = torch.tensor([prompt + target])
            logits = torch.func.functional_call(base.model, {NAME: value}, kwargs={"input_ids": ids}).logits
            each.append(F.cross_entropy(logits[0, len(prompt) - 1 : -1], ids[0, len(prompt) :]))
        return torch.stack(each).mean()

    def step(optimizer, numbers):
        found = loss(numbers)
        if found.item() >= 1e-2:
            optimizer.zero_grad()
            found.backward(inputs=[value])
            optimizer.step()
        return found.item()

    if method == "df":
        for i in range(len(pairs)):
            optimizer = torch.optim.Adam([value], lr=lr)
            for _ in range(epochs):
                if step(optimizer, [i]) < 1e-2:
                    break
        return value.detach()
    optimizer = torch.optim.Adam([value], lr=lr)
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(pairs))
        found = [step(optimizer, order[start : start + size]) for start in range(0, len(pairs), size)]
        if np.mean(found) < 1e-2:
            break
    return value.detach()


@pytest.mark.parametrize("method, size, lr", [("locft-bf", 2, 5e-2), ("bf", 1, 3e-2), ("df", 1, 5e-2)])
def test_it_is_the_paper_s_algorithm(sharp, method, size, lr):
    base = Base.load(sharp)
    expected = plainly(base, method, lr, 40, size, seed=3)
    more = {"batch_size": size} if method == "locft-bf" else {}
    pair = edit(FEW, base, method=method, at=PLACE, lr=lr, epochs=40, seed=3, **more)
    assert list(pair.delta) == [NAME]
    moved = (expected - base.parameters[NAME]).abs().max()
    assert moved > 0.05
    # Rounding is amplified by Adam's first steps; another order or loss is a hundred times further away.
    assert (dict(pair.trainable())[NAME] - expected).abs().max() < 0.02 * moved
    made = pair.top.record["training"]
    assert made["skipped"] > 0 and made["steps"] > 0
    if method == "df":
        assert made["ended"] == "after the last edit" and not made["losses"]
    else:
        assert made["ended"].startswith("learnt") and made["losses"][-1] < 1e-2 < made["losses"][-2]


def test_a_batch_weighs_every_edit_alike_whatever_its_length_and_padding(sharp):
    base = Base.load(sharp)
    pair = Pair(base, [Layer(Located(at=PLACE).install(base, base.model), lambda: None)])
    batches = EditBatches(pair, FactTokens(pair.tokenizer, 128).pairs(Facts.read(ROWS)))
    together = batches.losses(range(len(ROWS)))
    alone = torch.cat([batches.losses([i]) for i in range(len(ROWS))])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_blocks_below_the_place_run_once_for_every_edit(sharp):
    base = Base.load(sharp)
    seen = {0: 0, 3: 0}
    hooks = [
        base.blocks[i][1].mlp.register_forward_pre_hook(lambda _m, args, i=i: seen.update({i: seen[i] + len(args[0])}))
        for i in seen
    ]
    made = edit(ROWS, base, at=PLACE, batch_size=2, epochs=4).top.record["training"]
    for hook in hooks:
        hook.remove()
    # Beside training: all edits once, four in the plain pass of the proof, one on both sides in the last proof.
    assert made["updates"] == 20 and seen[0] == 5 + 4 + 2 and seen[3] == 20 + 5 + 8 + 2


def test_a_shortcut_that_gives_other_losses_is_not_taken(sharp, caplog):
    base = Base.load(sharp)
    base.blocks[1][1].register_forward_hook(lambda _m, _a, out: out + 1e-2 * torch.randn_like(out))
    caplog.set_level("WARNING", "pairtune")
    edit(ROWS, base, at=PLACE, epochs=1)
    assert "they run at every step" in caplog.text


def test_bounded_tuning_keeps_every_number_within_its_bound(sharp):
    base = Base.load(sharp)
    pair = edit(ROWS[:1], base, method="ft-l", at=PLACE, lr=1e-2, epochs=5)
    moved = (dict(pair.trainable())[NAME] - base.parameters[NAME]).abs().max().item()
    assert moved == pytest.approx(WAYS["ft-l"].bound, rel=1e-3)
    several = edit(ROWS, Base.load(sharp), method="ft-l", at=PLACE, lr=1e-2, epochs=5)
    change = (dict(several.trainable())[NAME] - base.parameters[NAME]).abs().max().item()
    assert WAYS["ft-l"].bound < change <= len(ROWS) * WAYS["ft-l"].bound * 1.001, "each edit has a bound of its own"


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_other_places_learn_too(sharp, method):
    base = Base.load(sharp)
    at = {} if method == "full" else {"at": "3"}
    pair = edit(ROWS, base, method=method, batch_size=2, lr=2e-2, epochs=20, **at)
    losses = pair.top.record["training"]["losses"]
    assert losses[-1] < 0.1 * losses[0]
    moved = {name for name in pair.delta if pair.delta.difference(name).any()}
    if method == "full":
        assert len(moved) == len(base.names.on_disk)
    else:
        assert len(moved) == 7 and all(name.startswith("model.layers.3.") for name in moved)


def test_what_is_saved_is_what_was_made_and_the_base_stays(sharp, tmp_path):
    base = Base.load(sharp)
    before = base.checksum()
    pair = edit(ROWS, base, tmp_path / "out", at=PLACE, lr=2e-2)
    assert base.checksum() == before and not list(tmp_path.glob("*.run"))
    again = Pair.load(tmp_path / "out", str(sharp))
    assert torch.equal(dict(again.trainable())[NAME], dict(pair.trainable())[NAME])
    assert again.card.notes == [f"5 edits by locft-bf at {PLACE}"]
    assert again.top.record["training"]["updates"] == 25 * 5
    assert torch.equal(edit(ROWS, base, tmp_path / "out", resume=True).delta[NAME].value, pair.delta[NAME].value)
    with pytest.raises(ResumeMismatch, match=r"another run \(differs in lr, facts\)"):
        edit(ROWS[:2], base, tmp_path / "out", lr=1.0, resume=True)
    with pytest.raises(InputError, match="holds a finished pair"):
        edit(ROWS, base, tmp_path / "out")


@pytest.mark.parametrize("method", ["locft-bf", "ft-l"])
def test_a_run_that_is_stopped_goes_on_bit_for_bit(sharp, tmp_path, monkeypatch, method):
    settings = {"method": method, "at": PLACE, "lr": 2e-2, "epochs": 6, "seed": 1}
    settings |= {"batch_size": 2} if method == "locft-bf" else {}
    whole = edit(ROWS, str(sharp), **settings)
    calls, step = [], Loop.step

    def interrupted(self):
        calls.append(self.state.at)
        if len(calls) == 8:
            os.kill(os.getpid(), signal.SIGINT)
        step(self)

    monkeypatch.setattr(Loop, "step", interrupted)
    out = tmp_path / "out"
    with pytest.raises(Stopped, match=r"checkpoint-8 is kept, --resume continues") as stopped:
        edit(ROWS, str(sharp), out, **settings)
    assert stopped.value.exit_code == 130 and len(calls) == 8
    with pytest.raises(InputError, match="--resume continues it"):
        edit(ROWS, str(sharp), out, **settings)
    with pytest.raises(ResumeMismatch, match="settings.lr: 0.02 → 0.1"):
        edit(ROWS, str(sharp), out, resume=True, **{**settings, "lr": 0.1})
    pair = edit(ROWS, str(sharp), out, resume=True, **settings)
    one, two = (p.top.record["training"] for p in (pair, whole))
    assert torch.equal(pair.delta[NAME].value, whole.delta[NAME].value)
    assert len(calls) == one["steps"] + one["skipped"]
    assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_work_can_be_made_equal(sharp):
    base = Base.load(sharp)
    for method, more in (("locft-bf", {"batch_size": 2}), ("bf", {}), ("df", {})):
        pair = edit(ROWS, base, method=method, at=PLACE, updates=17, **more)
        made = pair.top.record["training"]
        assert 16 <= made["updates"] <= 17 and made["ended"] == f"after {made['updates']} updates, as asked"
        pair.pop()


def test_small_steps_are_not_lost_in_half_precision(sharp):
    pair = edit(ROWS, Base.load(sharp, dtype="bfloat16"), at=PLACE, lr=2e-4, epochs=30)
    value = dict(pair.trainable())[NAME]
    assert value.dtype == torch.bfloat16
    moved = (value.float() - pair.base.parameters[NAME].float()).abs()
    # Weights near 0.2 have steps of 0.001: added in place, 30 steps of 0.0002 would leave most of them where they are.
    assert moved.mean() > 0.003
    master = Master(pair.top.installed, 1e-3)
    assert all(one.dtype == torch.float32 for one in master.values.values())


def test_edits_stand_on_a_pair(sharp, tmp_path):
    edit(ROWS[:2], str(sharp), tmp_path / "one", at=PLACE, lr=2e-2)
    pair = edit(ROWS[2:], tmp_path / "one", tmp_path / "two", at=PLACE, lr=2e-2, method="bf")
    assert pair.card.parents == [str(tmp_path / "one")] and len(pair.layers) == 2
    again = Pair.load(tmp_path / "two")
    assert len(again.layers) == 2
    assert torch.equal(again.delta[NAME].value, pair.delta[NAME].value)
    below = Pair.load(tmp_path / "one")
    with again.reference():
        assert torch.equal(again.base.model.get_parameter(NAME), dict(below.trainable())[NAME])


def test_a_run_that_fails_leaves_the_pair_as_it_was(sharp):
    base = Base.load(sharp)
    with pytest.raises(
        NonFiniteError, match=r"step \d+: the loss of the edits facts:\d.* became nan; try a lower --lr"
    ):
        edit(ROWS, base, at=PLACE, lr=1e38)
    assert base.model.get_parameter(NAME) is base.parameters[NAME]
    pair = edit(FEW, base, at=PLACE, lr=5e-2, epochs=60)
    with pytest.raises(InputError, match="nothing was changed: the model says all 3 targets already"):
        edit(FEW, pair, at=PLACE)
    assert len(pair.layers) == 1


def test_what_cannot_be_is_refused(sharp, tiny_bert):
    with pytest.raises(ConfigError, match=r"(?s)lr: .*greater than 0.*epochs.*greater than or equal to 1"):
        edit(ROWS, str(sharp), lr=0, epochs=0)
    with pytest.raises(ConfigError, match="there is no such setting; did you mean epochs"):
        edit(ROWS, str(sharp), epoch=3)
    with pytest.raises(InputError, match="there is no method 'bff'; did you mean bf"):
        edit(ROWS, str(sharp), method="bff")
    with pytest.raises(ConfigError, match="full tunes all weights; leave at out"):
        edit(ROWS, str(sharp), method="full", at=PLACE)
    with pytest.raises(ConfigError, match="df takes one edit a step"):
        edit(ROWS, str(sharp), method="df", batch_size=4)
    with pytest.raises(InputError, match="facts are edited into causal language models"):
        edit(ROWS, str(tiny_bert))
    with pytest.raises(InputError, match="updates: a step has 5 edits, more than 4 updates allow"):
        edit(ROWS, str(sharp), updates=4)
    with pytest.raises(DataError, match="has 131 tokens, the model reads and writes 128 together"):
        edit([{"prompt": "cat " * 130, "target": "red"}], str(sharp))
    with pytest.raises(DataError, match="facts:1: prompt and target have 130 tokens, the model reads 128"):
        edit([{"prompt": "cat " * 126, "target": "red red"}], str(sharp))
    with pytest.raises(DataError, match="facts:1: the tokenizer writes the target 'purple'"):
        edit([{"prompt": "the cat is", "target": "purple"}], str(sharp))
