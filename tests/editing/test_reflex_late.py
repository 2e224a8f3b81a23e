"""REFLEX where the delta changes the last block alone: below it, base and variant are equal and show no direction."""

import numpy as np
import pytest
from tests.constraints.pairs import dense_pair
from tests.editing.claims import as_task, rows

from pairtune.data.split import Split
from pairtune.editing.reflex.extract import extract
from pairtune.editing.reflex.quadrants import Quadrants
from pairtune.editing.reflex.reading import Reading
from pairtune.errors import InputError
from pairtune.generation.mean_difference import MeanDifference


def test_blocks_below_the_delta_show_no_direction(tiny_llama):
    pair = dense_pair(tiny_llama, 0.2, only=lambda name: ".layers.3." in name)
    train = Split.of(rows(90, 3), "train")
    reading = Reading(pair, as_task({"train": train}))
    numbers = np.arange(90)
    quadrants = Quadrants(numbers % 3 > 0, numbers % 3 < 2)  # thirds: Q2, Q1, Q4
    found = extract(reading, train, quadrants, MeanDifference(), 0)
    assert list(found.fitted["iv"].directions) == [3] == list(found.fitted["kv"].directions)
    assert list(found.probed["kv"].identity) == [3] and list(found.fitted["caa"].directions) == [0, 1, 2, 3]
    with pytest.raises(InputError, match="do not differ behind block 0, 2 on these rows"):
        extract(reading, train, quadrants, MeanDifference(), 0, [0, 2])


def test_too_few_rows_on_which_both_agree_are_refused(tiny_llama):
    pair = dense_pair(tiny_llama, 0.2)
    train = Split.of(rows(90, 3), "train")
    right = np.arange(90) % 2 > 0
    with pytest.raises(InputError, match=r"agree on too few rows .* \(Q1 0, Q2 45, Q3 0, Q4 45; 20 of Q1 and Q3"):
        extract(Reading(pair, as_task({"train": train})), train, Quadrants(right, ~right), MeanDifference(), 0)
