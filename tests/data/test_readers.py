"""Every format, plain and through gzip, with its line numbers; and every way in which a file can be wrong."""

import gzip
import json
import tracemalloc

import pytest

from pairtune.data.readers import read
from pairtune.errors import DataError, InputError

ROWS = [
    {"text": "one, two", "label": "a"},
    {"text": 'said "no"\nand left', "label": "b"},
    {"text": "ünï", "label": "a"},
]
CSV = 'text,label\n"one, two",a\n"said ""no""\nand left",b\nünï,a\n'
FORMATS = {
    "x.csv": (CSV, [2, 3, 5]),
    "x.tsv": (CSV.replace('",', '"\t').replace("text,", "text\t").replace("ünï,", "ünï\t"), [2, 3, 5]),
    "x.jsonl": ("\n".join(json.dumps(row) for row in ROWS[:2]) + "\n\n" + json.dumps(ROWS[2]), [1, 2, 4]),
    "x.json": ("[\n" + ",\n".join(json.dumps(row, indent=1) for row in ROWS) + "\n]\n", [2, 6, 10]),
}


def write(path, content):
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("name", FORMATS)
def test_rows_and_the_lines_on_which_they_start(tmp_path, name, gz):
    text, lines = FORMATS[name]
    found = list(read(write(tmp_path / (name + gz), text)))
    assert [row for _, row in found] == ROWS
    assert [line for line, _ in found] == lines


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_parquet_rows_are_numbered(tmp_path, gz):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS * 3), tmp_path / "y.parquet", row_group_size=2)
    path = write(tmp_path / ("x.parquet" + gz), (tmp_path / "y.parquet").read_bytes())
    assert list(read(path)) == list(enumerate(ROWS * 3, 1))


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_text_has_one_row_a_line_without_the_blank_ones(tmp_path, gz):
    path = write(tmp_path / ("x.txt" + gz), "first \r\n\n  \n second\u2028still second")
    assert list(read(path)) == [(1, {"text": "first "}), (4, {"text": " second\u2028still second"})]


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_data(tmp_path):
    assert list(read(write(tmp_path / "x.csv", b"\xef\xbb\xbftext,label\r\na,b\r\n"))) == [
        (2, {"text": "a", "label": "b"})
    ]
    assert list(read(write(tmp_path / "x.json", b'\xef\xbb\xbf[{"text": "a"}]'))) == [(1, {"text": "a"})]


def test_a_json_file_may_hold_one_object_a_line(tmp_path):
    assert list(read(write(tmp_path / "x.json", '{"a": 1}\n{"a": 2}\n'))) == [(1, {"a": 1}), (2, {"a": 2})]


def test_fields_longer_than_the_csv_module_allows_by_default(tmp_path):
    assert next(read(write(tmp_path / "x.csv", "text\n" + "a" * 200_000)))[1]["text"] == "a" * 200_000


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_a_json_array_is_the_same_whatever_the_pieces_it_is_read_in(tmp_path, monkeypatch, size):
    from pairtune.data import json_rows

    monkeypatch.setattr(json_rows, "_CHUNK", size)
    rows = [{"a": 'ü😀\\"]},{', "n": -1.5e-3}, {"a": [True, None, {"b": "\u2028"}]}, {}]
    for text in (json.dumps(rows), json.dumps(rows, indent=2, ensure_ascii=False)):
        assert [row for _, row in read(write(tmp_path / "x.json", text))] == rows


@pytest.mark.parametrize("name", ["x.csv.gz", "x.jsonl.gz", "x.json.gz", "x.txt.gz"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    line = "word " * 40
    kind = name.split(".")[1]
    rows = 20_000  # 4 MB
    head, row = {"csv": ("text\n", line), "txt": ("", line)}.get(kind, ("", json.dumps({"text": line})))
    body = f"[{','.join([row] * rows)}]" if kind == "json" else head + "\n".join([row] * rows)
    path = write(tmp_path / name, body)
    tracemalloc.start()
    assert sum(1 for _ in read(path)) == rows
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


BAD = {
    "bad JSON": ("x.jsonl", '{"a": 1}\n{"a": }\n', 2, "not valid JSON"),
    "an object over several lines": ("x.jsonl", '{\n"a": 1}\n', 1, "call the file .json"),
    "no object": ("x.jsonl", '{"a": 1}\n[1]\n', 2, "expected an object"),
    "key twice": ("x.jsonl", '{"a": 1, "a": 2}\n', 1, "'a' occurs twice"),
    "half a surrogate pair": ("x.jsonl", '{"a": "\\ud800"}\n', 1, "surrogates"),
    "nested": ("x.jsonl", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", 1, "nested too deeply"),
    "bad element": ("x.json", '[\n{"a": 1},\n{"a": \n nope}\n]', 4, "not valid JSON"),
    "bad element far from the end": ("x.json", '[\n{"a": 1},\n{"a": nope}' + " " * 50 + "]", 3, "not valid JSON"),
    "array of numbers": ("x.json", "[1, 2]", 1, "expected an object"),
    "array cut off": ("x.json", '[{"a": 1},\n{"a": 2}\n', 3, "cut off"),
    "element cut off": ("x.json", '[{"a": 1},\n{"a": "tex', 2, "not valid JSON"),
    "no comma": ("x.json", '[{"a": 1}\n{"a": 2}]', 2, "expected ','"),
    "text behind the array": ("x.json", "[{}]\n[{}]", 2, "behind the end"),
    "a key twice in an array": ("x.json", '[{"a": 1, "a": 2}]', 1, "occurs twice"),
    "no array": ("x.json", '"text"', 1, "expected an array"),
    "too many fields": ("x.csv", "text,label\nfine,a\none, two,b\n", 3, "found 3 fields, the header has 2"),
    "too few fields": ("x.csv", 'text,label\n"two\nlines",a\nalone\n', 4, "found 1 fields, the header has 2"),
    "too few fields in a TSV": ("x.tsv", "text\tlabel\nalone\n", 2, "found 1 fields"),
    "quote never closed": ("x.csv", 'text,label\nfine,a\n"open,b\nmore,c\n', 3, "quotes out of order"),
    "text behind a quote": ("x.csv", 'text,label\n"a"b,c\n', 2, "quotes out of order"),
    "nameless column": ("x.csv", ",text\n0,a\n", 1, "column 1 of the header has no name .*index=False"),
    "column twice": ("x.csv", "text,text\na,b\n", 1, "'text' twice"),
    "other delimiter": ("x.csv", "text;label\na;b\n", 1, "parted by ';'"),
    "not UTF-8": ("x.csv", b"text,label\nok,a\ncaf\xe9,b\n", 3, "not UTF-8 text .*0xe9"),
    "not UTF-8 lines": ("x.txt", b"ok\n\xff\n", 2, "not UTF-8"),
    "not UTF-8 JSON": ("x.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', 2, "not UTF-8"),
    "not UTF-8 array": ("x.json", b'[{"a": 1},\n\n{"a": "\xe9"}]', 3, "not UTF-8"),
    "cut UTF-8 array": ("x.json", b'[{"a": "\xc3', 1, "not UTF-8"),
    "empty CSV": ("x.csv", "", None, "no rows"),
    "header only": ("x.csv", "text,label\n", None, "no rows"),
    "empty JSONL": ("x.jsonl", "\n\n", None, "no rows"),
    "empty array": ("x.json", "[ ]", None, "no rows"),
    "empty JSON": ("x.json", "", None, "no rows"),
    "blank text": ("x.txt", " \n", None, "no rows"),
    "not Parquet": ("x.parquet", "text,label\n", None, "not a Parquet file"),
    "damaged Parquet": ("x.parquet", b"PAR1" + b"\0" * 40 + b"PAR1", None, "not a readable Parquet file"),
    "Parquet by another name": ("x.csv", b"PAR1" + b"\0" * 40, None, "a Parquet file, in spite of its name"),
    "pickle by another name": ("x.jsonl", b"\x80\x04\x95\x00", None, "a pickle, .*JSONL or Parquet"),
    "packed pickle": ("x.jsonl.gz", b"\x80\x05\x95\x00", None, "a pickle"),
    "torch file by another name": ("x.csv", b"PK\x03\x04rest", None, "a zip archive"),
    "UTF-16": ("x.csv", "text,label\na,b\n".encode("utf-16"), None, "UTF-16"),
    "another format": ("x.xlsx", b"PK\x03\x04", None, "this format is not read"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_fault_is_named_by_file_and_line(tmp_path, case):
    name, content, line, message = BAD[case]
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as caught:
        list(read(path))
    assert (caught.value.file, caught.value.line) == (path, line)
    assert str(caught.value).startswith(f"{path}, line {line}: " if line else f"{path}: ")


def test_gzip_damage_is_named(tmp_path):
    whole = gzip.compress(json.dumps({"a": "b" * 999}).encode() * 50)
    for content in (whole[: len(whole) // 2], b"plain text", whole[:-8] + b"\0" * 8):
        path = tmp_path / "x.jsonl.gz"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.jsonl\.gz.*gzip"):
            list(read(path))


@pytest.mark.parametrize("name", ["x.pkl", "x.joblib", "x.pt", "x.pkl.gz", "x.bin", "X.PTH"])
def test_files_that_can_run_code_are_refused_unopened(tmp_path, name):
    import pickle

    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    (tmp_path / name).chmod(0)
    with pytest.raises(DataError, match="can run any code .* JSONL or Parquet"):
        list(read(tmp_path / name))
    assert not canary.exists()


def test_a_missing_file_is_answered_with_the_nearest_name(tmp_path):
    write(tmp_path / "train.csv", CSV)
    with pytest.raises(InputError, match=r"no file .*trian\.csv; did you mean train\.csv\?"):
        list(read(tmp_path / "trian.csv"))
