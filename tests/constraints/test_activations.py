"""Ablation and steering while tuning, against their equations; none of it outside of training passes."""

import pytest
import torch

from pairtune import registry
from pairtune.constraints.caft import CAFT
from pairtune.constraints.preventative_steering import PreventativeSteering
from pairtune.errors import ConfigError

from .directed import a_file, tuned_by
from .test_grasp import BATCH


def hidden_behind(pair, block):
    kept = {}

    def keep(_module, _args, output):
        kept["h"] = (output[0] if isinstance(output, tuple) else output).detach().double()

    handle = pair.base.blocks[block][1].register_forward_hook(keep)
    pair.forward(BATCH)
    handle.remove()
    return kept["h"]


def test_ablation_leaves_nothing_along_the_directions_behind_any_block(tiny_llama, tmp_path):
    pair = tuned_by(tiny_llama, "full")
    directions, path = a_file(tmp_path)
    before = hidden_behind(pair, 0)
    constraint = CAFT(directions=path)
    constraint.prepare(pair)
    u = directions.write.double()
    torch.testing.assert_close(hidden_behind(pair, 0), before - before @ u @ u.T, rtol=1e-5, atol=1e-5)
    for block in range(4):
        h = hidden_behind(pair, block)
        assert (h @ u).norm() < 1e-5 * h.norm()
    with torch.no_grad():
        torch.testing.assert_close(hidden_behind(pair, 0), before, rtol=0, atol=0)
    constraint.finish(pair)
    torch.testing.assert_close(hidden_behind(pair, 0), before, rtol=0, atol=0)


def test_steering_adds_a_share_of_the_activation_s_length_along_the_first_direction(tiny_llama, tmp_path):
    pair = tuned_by(tiny_llama, "full")
    directions, path = a_file(tmp_path)
    before = hidden_behind(pair, 1)
    constraint = PreventativeSteering(directions=path, strength=0.3, layers="middle")
    constraint.prepare(pair)
    expected = before + 0.3 * before.norm(dim=-1, keepdim=True) * directions.write[:, 0].double()
    torch.testing.assert_close(hidden_behind(pair, 1), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden_behind(pair, 0), hidden_behind(pair, 0), rtol=0, atol=0)
    constraint.finish(pair)
    torch.testing.assert_close(hidden_behind(pair, 1), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["caft", "preventative-steering", "grasp"])
def test_a_tuner_that_trains_on_cached_activations_is_refused(tiny_bert, tmp_path, name):
    pair = tuned_by(tiny_bert, "head", task="classification", labels=["yes", "no"])
    settings = {"where": "backprop"} if name == "grasp" else {}
    constraint = registry.build("constraints", name, {"directions": a_file(tmp_path)[1], **settings})
    with pytest.raises(ConfigError, match="computed once"):
        constraint.prepare(pair)
