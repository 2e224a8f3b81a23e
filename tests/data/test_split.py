"""Splits: a sequence with provenance, the same whatever holds the rows."""

import json

import pytest

from pairtune.data.split import Split
from pairtune.errors import DataError

ROWS = [{"text": f"row {i}", "label": i % 3} for i in range(10)]


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in ROWS))  # a row on every second line
    return path


@pytest.fixture
def parquet(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "train.parquet", row_group_size=4)
    return tmp_path / "train.parquet"


def test_rows_places_and_selections(jsonl):
    split = Split.read(jsonl)
    assert list(split) == ROWS
    assert split[-1] == ROWS[-1]
    assert split.where(3) == f"{jsonl}:7"
    some = split.select([8, 2, 5])
    assert list(some) == [ROWS[8], ROWS[2], ROWS[5]]
    assert some.where(0) == f"{jsonl}:17"
    assert some[1:].where(-1) == some.select([-1]).where(0) == f"{jsonl}:11"
    assert list(some.values("label")) == [2, 2, 2]
    with pytest.raises(IndexError):
        some[3]


def test_arrow_gives_the_same_rows_and_fingerprint(jsonl, parquet):
    lines, table = Split.read(jsonl), Split.read(parquet)
    assert list(table) == list(lines)
    assert list(table.values("text")) == list(lines.values("text"))
    assert table.where(3) == f"{parquet}:4"
    assert table[2:5].where(0) == f"{parquet}:3"
    assert table.fingerprint == lines.fingerprint


def test_the_fingerprint_changes_with_content_and_order_only(jsonl, tmp_path):
    split = Split.read(jsonl)
    same = Split.of([dict(reversed(row.items())) for row in ROWS])
    assert same.fingerprint == split.fingerprint
    assert split.select(range(9, -1, -1)).fingerprint != split.fingerprint
    assert Split.of([*ROWS[:-1], {**ROWS[-1], "label": 2}]).fingerprint != split.fingerprint


def test_several_files_are_one_split(jsonl, tmp_path):
    other = tmp_path / "more.csv"
    other.write_text("text,label\nlast,1\n")
    split = Split.read(jsonl, other)
    assert len(split) == 11
    assert (split.where(9), split.where(10)) == (f"{jsonl}:19", f"{other}:2")


def test_a_missing_column_names_the_nearest(jsonl, parquet):
    for path in (jsonl, parquet):
        with pytest.raises(DataError, match=r"no column 'txt' \(columns: text, label\); did you mean text\?"):
            list(Split.read(path).values("txt"))


def test_a_row_without_the_column_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n{"test": "b"}\n')
    with pytest.raises(DataError, match=r"x\.jsonl, line 2: this row has no 'text' \(it has: test\)"):
        list(Split.read(path).values("text"))
    assert list(Split.read(path).values("text", None)) == ["a", None]
    assert list(Split.read(path).select([1]).values("text", "?")) == ["?"]


def test_an_empty_parquet_file_is_refused(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no rows"):
        Split.read(tmp_path / "x.parquet")
