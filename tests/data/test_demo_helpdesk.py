"""The help-desk demonstration data: counts, columns, duplicates, labels."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest

MAIN = ("train", "validation", "test")
LABELLED = (*MAIN, "ood/shifted")
ALL = (*LABELLED, "ood/out_of_scope")
LEAST_PER_INTENT = {"train": 60, "validation": 10, "test": 12, "ood/shifted": 20}
INTENTS = {
    "access_permission",
    "account_locked",
    "email_delivery",
    "file_recovery",
    "hardware_request",
    "license_renewal",
    "meeting_room_display",
    "password_reset",
    "phone_setup",
    "printer_problem",
    "security_report",
    "slow_computer",
    "software_install",
    "vpn_connection",
    "wifi_trouble",
}


def _folder() -> Path:
    """The folder as installed, or as it lies in the source tree."""
    try:
        installed = Path(str(resources.files("pairtune"))) / "data" / "demo" / "helpdesk"
    except (ModuleNotFoundError, TypeError):
        installed = None
    if installed is not None and installed.is_dir():
        return installed
    return Path(__file__).parents[2] / "src" / "pairtune" / "data" / "demo" / "helpdesk"


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower().replace("'", ""))


@pytest.fixture(scope="module")
def splits() -> dict[str, list[dict[str, str]]]:
    folder = _folder()
    return {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").split("\n") if line]
        for name in ALL
    }


@pytest.mark.parametrize("name", ALL)
def test_columns_are_as_documented(splits, name):
    second = "kind" if name == "ood/out_of_scope" else "intent"
    for row in splits[name]:
        assert list(row) == ["text", second]
        assert all(isinstance(value, str) and value for value in row.values())
        assert row["text"] == row["text"].strip()
        assert not re.search(r"[\r\n\t]|  ", row["text"]), row["text"]


def test_total_of_the_main_splits(splits):
    assert len({row["text"] for name in MAIN for row in splits[name]}) >= 1200


@pytest.mark.parametrize("name", LABELLED)
def test_counts_per_intent(splits, name):
    counts = Counter(row["intent"] for row in splits[name])
    assert min(counts.values()) >= LEAST_PER_INTENT[name], counts


@pytest.mark.parametrize("name", LABELLED)
def test_label_sets_are_equal(splits, name):
    assert {row["intent"] for row in splits[name]} == INTENTS


def test_out_of_scope_kinds(splits):
    counts = Counter(row["kind"] for row in splits["ood/out_of_scope"])
    assert set(counts) == {"far", "near"}
    assert counts["near"] >= 80
    assert sum(counts.values()) >= 240


def test_no_duplicates_within_or_across_files(splits):
    seen: dict[str, str] = {}
    for name in ALL:
        for row in splits[name]:
            key = " ".join(_words(row["text"]))
            assert key not in seen, f"{row['text']!r} is in {seen[key]} and in {name}"
            seen[key] = name


def test_no_near_duplicates_across_files(splits):
    sets = [(name, row["text"], set(_words(row["text"]))) for name in ALL for row in splits[name]]
    for at, (name, text, words) in enumerate(sets):
        for other_name, other_text, other in sets[at + 1 :]:
            if name == other_name:
                continue
            overlap = len(words & other) / len(words | other)
            assert overlap <= 0.5, f"{name}: {text!r} is close to {other_name}: {other_text!r}"


def test_no_shared_sentence_frames(splits):
    openings = Counter(
        tuple(_words(row["text"])[:5]) for name in ALL for row in splits[name] if len(_words(row["text"])) >= 5
    )
    assert openings.most_common(1)[0][1] <= 3


@pytest.mark.parametrize("name", MAIN)
def test_lengths_vary_within_bounds(splits, name):
    lengths = [len(row["text"].split()) for row in splits[name]]
    assert min(lengths) >= 3
    assert max(lengths) <= 40
    assert len(set(lengths)) >= 15


@pytest.mark.parametrize("name", MAIN)
def test_rows_are_shuffled(splits, name):
    labels = [row["intent"] for row in splits[name]]
    changes = sum(a != b for a, b in pairwise(labels))
    assert changes > len(labels) // 2


@pytest.mark.parametrize("name", ["README.md", "ood/out_of_scope.README.md", "ood/shifted.README.md"])
def test_readmes_state_licence_and_limits(name):
    text = (_folder() / name).read_text(encoding="utf-8")
    assert "Apache-2.0" in text
    assert "No benchmark claims" in text


def test_readme_counts_match_the_files(splits):
    text = (_folder() / "README.md").read_text(encoding="utf-8")
    for name in ALL:
        assert f"| `{name}.jsonl` | {len(splits[name])} |" in text
    counts = {name: Counter(row["intent"] for row in splits[name]) for name in LABELLED}
    for intent in sorted(INTENTS):
        cells = " | ".join(str(counts[name][intent]) for name in LABELLED)
        assert f"| `{intent}` | {cells} |" in text
