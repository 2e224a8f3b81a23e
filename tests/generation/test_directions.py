"""What every method of the room `generation` promises, whatever its equation."""

import pytest
import torch

from pairtune import registry
from pairtune.errors import InputError

METHODS = list(registry.methods("generation"))


def test_there_are_some():
    assert {"logistic", "mean-difference"} <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_direction_points_to_what_is_present(name):
    generator = torch.Generator().manual_seed(0)
    absent = torch.randn(50, 8, generator=generator).double()
    present = torch.randn(50, 8, generator=generator).double()
    present[:, 2] += 4.0
    method = registry.build("generation", name)
    for found in (method.fit(present, absent), method.plane(present, absent)):
        assert found.shape == (8,) and found.dtype == torch.float64 and abs(float(found.norm()) - 1) < 1e-9
        assert found[2] > 0.9
        assert ((present @ found).mean() > (absent @ found).mean()).item()
    again = registry.build("generation", name)
    assert torch.equal(again.fit(present, absent), method.fit(present, absent))
    torch.testing.assert_close(method.fit(absent, present), -method.fit(present, absent), atol=1e-4, rtol=1e-4)
    assert method.fit(present.float(), absent.float()).dtype == torch.float64  # activations are read in float32
    with pytest.raises(InputError, match="show no direction"):
        method.fit(present, present)
