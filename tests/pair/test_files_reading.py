"""Reading safetensors: every damaged or hostile header is named; what is accepted reads as the reference does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pairtune.errors import FormatError
from pairtune.pair.files import open_safetensors, write_safetensors


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a safetensors file with this header, whatever it claims."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(begin: int, end: int, shape: list | None = None, dtype: str = "U8") -> dict:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


DAMAGED = {
    "empty file": (b"", "no safetensors file"),
    "seven bytes": (b"\2\0\0\0\0\0\0", "no safetensors file"),
    "zero length header": (bytes(8), "truncated"),
    "header longer than the file": (file_of({}, length=300), "truncated"),
    "header of 2^63 bytes": (file_of({}, length=1 << 63), "not a safetensors file"),
    "header above the limit": (file_of({}, length=100_000_001), "not a safetensors file"),
    "a pickle": (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0" * 3, "truncated|not a safetensors"),
    "not JSON": (file_of(b"{oops}"), "not valid JSON"),
    "a list": (file_of([]), "not a safetensors file"),
    "leading space": (file_of(b" {}"), "not a safetensors file"),
    "bad UTF-8": (file_of(b'{"\xff": 1}'), "not valid JSON"),
    "half a surrogate pair": (file_of({"\ud800": tensor(0, 1)}, b"x"), "not valid JSON"),
    "deep nesting": (file_of(b'{"a":' * 20_000), "nested too deeply"),
    "repeated tensor": (
        file_of(b'{"a":%b,"a":%b}' % ((json.dumps(tensor(0, 1)).encode(),) * 2), b"x"),
        "'a' occurs tw",
    ),
    "repeated field": (file_of(b'{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', b"x"), "'dtype'"),
    "repeated metadata": (file_of(b'{"__metadata__":{"a":"1","a":"2"}}'), "'a' occurs twice"),
    "metadata not text": (file_of({"__metadata__": {"a": 1}}), "__metadata__ should map text"),
    "trailing bytes": (file_of({"a": tensor(0, 2)}, b"xyz"), "trailing bytes"),
    "data without tensors": (file_of({}, b"x"), "trailing bytes"),
    "truncated data": (file_of({"a": tensor(0, 9)}, b"xyz"), "truncated"),
    "overlap": (file_of({"a": tensor(0, 2), "b": tensor(1, 3)}, b"xyz"), "'b' overlaps 'a'"),
    "the same bytes twice": (file_of({"a": tensor(0, 3), "b": tensor(0, 3)}, b"xyz"), "overlaps"),
    "hole": (file_of({"a": tensor(0, 1), "b": tensor(2, 3)}, b"xyz"), "'b' leaves a hole after 'a'"),
    "first tensor not at 0": (file_of({"a": tensor(1, 3)}, b"xyz"), "hole after 'the header'"),
    "empty tensor inside another": (file_of({"a": tensor(0, 3), "z": tensor(1, 1)}, b"xyz"), "overlaps"),
    "unknown dtype": (file_of({"a": tensor(0, 1, dtype="F128")}, b"x"), "unknown dtype 'F128'"),
    "dtype not text": (file_of({"a": tensor(0, 1, dtype=["U8"])}, b"x"), "unknown dtype"),  # type: ignore[arg-type]
    "negative length": (file_of({"a": tensor(0, 1, [-1])}, b"x"), "whole numbers"),
    "boolean length": (file_of({"a": tensor(0, 1, [True])}, b"x"), "whole numbers"),
    "fractional length": (file_of({"a": tensor(0, 1, [1.0])}, b"x"), "whole numbers"),
    "shape not a list": (file_of({"a": {**tensor(0, 1), "shape": 1}}, b"x"), "expected a list"),
    "three offsets": (file_of({"a": {**tensor(0, 1), "data_offsets": [0, 1, 1]}}, b"x"), "expected a list"),
    "offsets in reverse": (file_of({"a": tensor(2, 1, [1])}, b"xy"), "its offsets give"),
    "shape and bytes differ": (file_of({"w": tensor(0, 4, [3], "F32")}, b"xyzw"), r"\[3\] of F32 takes 12 bytes"),
    "shape that overflows": (file_of({"a": tensor(0, 0, [1 << 62, 1 << 62])}), "too large"),
    "overflow times zero": (file_of({"a": tensor(0, 0, [1 << 62, 1 << 62, 0])}), "too large"),
    "half a byte": (file_of({"a": tensor(0, 1, [3], "F4")}, b"x"), "takes 1.5 bytes"),
    "tensor not an object": (file_of({"a": 3}), "expected the fields"),
    "missing field": (file_of({"a": {"dtype": "U8", "shape": [1]}}, b"x"), "expected the fields"),
    "unknown field": (file_of({"a": {**tensor(0, 1), "code": "x"}}, b"x"), "expected the fields"),
    "NaN in the header": (file_of({"a": {**tensor(0, 1), "shape": [float("nan")]}}, b"x"), "not valid JSON"),
}


@pytest.mark.parametrize("content, message", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named_with_its_fault(tmp_path, content, message):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message) as error:
        open_safetensors(path)
    assert str(path) in str(error.value)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # a plain open() would wait here for ever
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("pipe", "dangling", "absent", "."):
        with pytest.raises(FormatError, match="cannot be opened|regular file"):
            open_safetensors(tmp_path / name)


def every_dtype() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    found = {f"é.{i}": torch.randn(3, 5).to(t) for i, t in enumerate((torch.float64, torch.bfloat16, torch.half))}
    found |= {
        str(t): torch.randint(0, 99, (2, 3, 2)).to(t) for t in (torch.int8, torch.uint16, torch.int64, torch.bool)
    }
    found |= {str(t): torch.randn(7).to(t) for t in (torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64)}
    return found | {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4), "packed": torch.zeros(2, 3).int()}


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a.dtype, a.shape) == (b.dtype, b.shape) and bool(
        (a.view(-1).view(torch.uint8) == b.view(-1).view(torch.uint8)).all()
    )


def test_every_type_reads_as_the_reference_reads_it(tmp_path):
    path, tensors = tmp_path / "a.safetensors", every_dtype()
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    opened, reference = open_safetensors(path), safetensors.torch.load_file(path)
    assert set(opened.keys()) == set(reference) == set(tensors)
    assert opened.metadata() == {"format": "pt"}
    for name, expected in reference.items():
        assert same(opened.tensor(name), expected), name
        assert opened.shape(name) == tuple(expected.shape)
        assert bytes(opened.raw(name)) == bytes(expected.reshape(-1).view(torch.uint8).tolist())
    with pytest.raises(FormatError, match="no tensor 'absent'"):
        opened.tensor("absent")


def test_an_unaligned_file_reads_too(tmp_path):
    header = json.dumps({"a": tensor(0, 8, [2], "F32")}).encode()
    header += b" " * (7 - len(header) % 8)  # so that the data begin at an odd byte
    (tmp_path / "a.safetensors").write_bytes(file_of(header, torch.tensor([1.5, -2.0]).numpy().tobytes()))
    read = open_safetensors(tmp_path / "a.safetensors").tensor("a")
    assert read.tolist() == [1.5, -2.0]
    assert read.data_ptr() % 4 == 0  # some processors and kernels need it


def test_the_header_may_list_tensors_in_another_order_than_they_lie(tmp_path):
    header = {"c": tensor(3, 4), "a": tensor(1, 3), "empty": tensor(3, 3), "b": tensor(0, 1)}
    (tmp_path / "a.safetensors").write_bytes(file_of(header, b"\1\2\3\4"))
    opened = open_safetensors(tmp_path / "a.safetensors")
    assert {name: opened.tensor(name).tolist() for name in opened} == {"c": [4], "a": [2, 3], "empty": [], "b": [1]}


def test_changing_a_tensor_changes_neither_the_file_nor_its_stored_bytes(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": torch.ones(4)})
    opened, before = open_safetensors(path), path.read_bytes()
    opened.tensor("a").zero_()
    assert bytes(opened.raw("a")) == torch.ones(4).numpy().tobytes()
    assert path.read_bytes() == before
    assert opened.raw("a").readonly


def test_an_opened_file_outlives_its_replacement(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": torch.ones(4)})
    opened = open_safetensors(path)
    write_safetensors(path, {"b": torch.zeros(9)})
    assert opened.tensor("a").tolist() == [1.0] * 4
    assert open_safetensors(path).keys() == ["b"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to tell mapped from allocated memory")
def test_reading_a_large_tensor_allocates_nothing(tmp_path, in_child):
    path, size = tmp_path / "a.safetensors", 256 << 20
    path.write_bytes(file_of({"a": tensor(0, size, [size // 4], "F32")}))
    os.truncate(path, path.stat().st_size + size)

    def allocated() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) << 10

    def child():
        before = allocated()
        opened = open_safetensors(path)
        assert opened.tensor("a").sum() == 0
        assert not any(opened.raw("a")[:: 1 << 16])
        assert allocated() - before < 32 << 20

    in_child(child)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.complex64])
def test_non_finite_names_the_tensors(tmp_path, dtype):
    long = torch.zeros((1 << 22) + 3).to(dtype)  # beyond one chunk
    bad = long.clone()
    bad[-1] = torch.tensor(float("nan")).to(dtype)
    cancel, large = torch.zeros(9).to(dtype), torch.full((9,), torch.finfo(dtype).max).to(dtype)
    if dtype != torch.float8_e4m3fn:  # which has no infinity
        cancel[:2] = torch.tensor([float("inf"), -float("inf")]).to(dtype)
    tensors = {"good": long, "bad": bad, "whole": torch.arange(3), "cancel": cancel, "large": large}
    write_safetensors(tmp_path / "a.safetensors", tensors)
    opened = open_safetensors(tmp_path / "a.safetensors")
    assert sorted(opened.non_finite()) == (["bad"] if dtype == torch.float8_e4m3fn else ["bad", "cancel"])
    assert opened.non_finite(["good", "whole"]) == []


MEASURE = """
import sys, time
from pairtune.errors import FormatError
from pairtune.pair.files import open_safetensors
start = time.process_time()
try:
    print(len(open_safetensors(sys.argv[1])))
except FormatError as error:
    print(error)
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(peak / 1024, time.process_time() - start, "torch" in sys.modules)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to read the peak memory")
@pytest.mark.parametrize("overlapping", [False, True])
def test_a_header_of_1e5_tensors_is_read_in_little_memory_and_time(tmp_path, overlapping):
    count = 100_000
    header = {f"model.layers.{i}.self_attn.q_proj.weight": tensor(4 * i, 4 * i + 4, [1], "F32") for i in range(count)}
    if overlapping:
        header["last"] = tensor(0, 4, [1], "F32")
    (tmp_path / "a.safetensors").write_bytes(file_of(header, bytes(4 * count)))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "a.safetensors")]
    answer, numbers = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    megabytes, seconds, torch_loaded = numbers.split()
    assert "overlaps" in answer if overlapping else answer == str(count)
    assert float(megabytes) < 200
    assert float(seconds) < 3  # of CPU: 0.45 here; a check of every pair would take an hour
    assert torch_loaded == "False"
