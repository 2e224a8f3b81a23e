"""Labels as words: all different, or refused with both names."""

import pytest

from pairtune.data.verbalise import join, verbalise
from pairtune.errors import InputError


def test_underscores_become_spaces_and_nothing_else_changes():
    assert verbalise(["card_arrival", "non-entailment", "Sci/Tech", "0"]) == [
        "card arrival",
        "non-entailment",
        "Sci/Tech",
        "0",
    ]


def test_two_labels_with_the_same_words_are_refused():
    with pytest.raises(InputError, match="'card_arrival' and 'card arrival' are both said as 'card arrival'"):
        verbalise(["card_arrival", "other", "card arrival"])
    with pytest.raises(InputError, match="'_' has no words"):
        verbalise(["a", "_"])


def test_columns_are_joined_without_the_empty_ones():
    assert join(["a", "b"]) == "a\nb"
    assert join(["a", ""]) == "a"
    assert join(["", "b"], " / ") == "b"
    assert join([""]) == ""
