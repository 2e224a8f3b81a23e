"""Rows of a small task, one of them hostile, and some general text."""

import json

HOSTILE = "<script>alert('cat')</script> & the cat sat"
ROWS = [
    ("the cat sat on the mat", "cat"),
    ("a cat is in the house", "cat"),
    (HOSTILE, "cat"),
    ("the dog ran by the river", "dog"),
    ("a dog is under a tree", "dog"),
]
GENERAL_TEXTS = ["the old man sat by the river", "please open the account", "who is the woman with the book ?"]


def write_splits(place, splits):
    for name, rows in splits.items():
        file = place / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("\n".join(json.dumps(row) for row in rows))
    return place
