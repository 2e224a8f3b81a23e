"""Every tuner on images and on sound: it works from the first step to the restored delta, or says in one sentence why
not."""

import pytest
import torch
from tests.data.media_files import photos, sounds
from tests.tuners.test_contract import LABELS, SETTINGS, names

from pairtune import registry
from pairtune.data.task import Task
from pairtune.errors import InputError
from pairtune.pair.base import Base
from pairtune.pair.outputs import Outputs
from pairtune.pair.pair import Layer, Pair, evaluating
from pairtune.pair.positions import examples
from pairtune.training.config import RunConfig
from pairtune.training.run import check

BASES = {"image": "tiny_vit", "audio": "tiny_ast"}
NAMED = {"target_modules": ["k_proj", "v_proj", "mlp.fc2"], "feedforward_modules": ["mlp.fc2"]}
OWN = SETTINGS | {"equitune": {"group": "hflip", "train": "both"}, "peft:ia3": NAMED}
# Who refuses what, and the words that say why.
REFUSED = {
    ("corda", "image"): "corda tunes on texts, .* reads images",
    ("corda", "audio"): "corda tunes on texts, .* reads recordings",
    ("equitune", "audio"): "equitune tunes on texts and images, .* reads recordings",
    ("levi", "image"): "levi tunes on texts, .* reads images",
    ("levi", "audio"): "levi tunes on texts, .* reads recordings",
    ("located", "image"): "located serves causal models, not encoder",
    ("located", "audio"): "located serves causal models, not encoder",
    ("peft:prefix_tuning", "image"): "learns tokens before a text, .* reads images; take deep-prompt",
    ("peft:prefix_tuning", "audio"): "learns tokens before a text, .* reads recordings; take deep-prompt",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A task of each kind; only what it holds is looked at."""
    root = tmp_path_factory.mktemp("media")
    made = {"image": photos(root / "p", {"train": 2, "test": 1}), "audio": sounds(root / "s", {"train": 2, "test": 1})}
    return {kind: Task.load(str(folder)) for kind, folder in made.items()}


def step(installed, inputs):
    """One optimizer step on a loss that every view takes part in."""
    installed.model.train()
    for module in installed.frozen_modules():
        module.eval()
    optimizer = torch.optim.SGD([parameter for _, parameter in installed.trainable()], lr=0.5)
    out = Outputs.of(installed.model(**inputs))
    sum((weight * view.float().square().mean() for view, weight in out.views), torch.tensor(0.0)).backward()
    optimizer.step()
    installed.model.eval()


def said(pair, inputs):
    with torch.no_grad(), evaluating(pair.model):
        return pair.model(**inputs).logits


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("name", names())
def test_it_works_on_what_it_serves_and_refuses_the_rest(name, kind, tasks, request, tmp_path):
    folder = request.getfixturevalue(BASES[kind])
    settings = OWN.get(name, {})

    def load():
        return Base.load(folder, task="classification", labels=LABELS)

    def begin():
        tuner = {"name": name, **settings}
        config = RunConfig.of({"base": str(folder), "data": "demo:helpdesk", "tuner": tuner})
        check(config, config.steps(), tasks[kind])
        base = load()
        torch.manual_seed(0)
        made = registry.build("tuners", name, settings)
        return base, made, made.install(base, base.model, [examples(base, 2)])

    if (name, kind) in REFUSED:
        with pytest.raises(InputError, match=REFUSED[name, kind]):
            begin()
        return
    base, tuner, installed = begin()
    pair = Pair(base, [Layer(installed, lambda: tuner.extract(installed), {"tuner": {"name": name}})])
    inputs = pair.inputs(examples(base, 3))
    alone, checksum = load().model(**inputs).logits.detach(), base.checksum()
    if "identity_at_start" in installed.provides:
        assert torch.equal(said(pair, inputs), alone)
    step(installed, inputs)
    on = said(pair, inputs)
    assert on.shape == alone.shape and not torch.allclose(on, alone, atol=1e-3)
    with pair.off():
        assert torch.equal(said(pair, inputs), alone)
    assert torch.equal(said(pair, inputs), on) and base.checksum() == checksum
    installed.write(tmp_path)
    fresh = load()
    restored = tuner.restore(fresh, fresh.model, tmp_path)
    again = Pair(fresh, [Layer(restored, lambda: tuner.extract(restored))])
    assert torch.equal(said(again, inputs), on)


def test_a_method_without_a_default_place_names_those_that_there_are(tiny_vit):
    base = Base.load(tiny_vit, task="classification", labels=LABELS)
    with pytest.raises(
        InputError, match=r"no default for this model; name some of .*mlp.fc1.* as --tuner.target_modules"
    ):
        registry.build("tuners", "peft:ia3", {}).install(base, base.model)
