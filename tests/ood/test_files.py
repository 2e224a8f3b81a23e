"""A killed scoring run goes on and writes the same bytes; another run's remains are refused."""

import json
import os

import pytest

from pairtune.errors import ResumeMismatch, RunLocked
from pairtune.ood import files
from pairtune.ood.files import write_scored
from pairtune.pair.lock import RunLock


@pytest.fixture(autouse=True)
def chunks_of_four(monkeypatch):
    monkeypatch.setattr(files, "AT_ONCE", 4)


def records(rows):
    # A record depends on its chunk, as padding does in a batch: going on in other chunks would show.
    return [{"row": row, "chunk": rows[0]} for row in rows]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_row_is_written_and_nothing_else_is_left(tmp_path):
    assert write_scored(tmp_path / "out.jsonl", range(10), records, {}) == 0
    assert [line["row"] for line in lines(tmp_path / "out.jsonl")] == list(range(10))
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("at", range(10))
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, at):
    write_scored(tmp_path / "whole.jsonl", range(10), records, {"a": 1})
    out = tmp_path / "out.jsonl"
    child = os.fork()
    if child == 0:
        seen = []
        dying = lambda count: seen.append(count) or (len(seen) == at + 2 and os.kill(os.getpid(), 9))  # noqa: E731
        write_scored(out, range(10), records, {"a": 1}, progress=dying)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == 9
    assert not out.exists()
    with (tmp_path / ".out.jsonl.partial").open("ab") as file:
        file.write(b"half a chunk that reached the disk " * 100)
    scored = []
    assert write_scored(out, range(10), lambda rows: scored.extend(rows) or records(rows), {"a": 1}) == at // 4 * 4
    assert scored == list(range(at // 4 * 4, 10)), "what was scored is not scored again"
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def stopped(out):
    def stop(rows):
        if rows[0] == 8:
            raise KeyboardInterrupt
        return records(rows)

    with pytest.raises(KeyboardInterrupt, match="8 inputs are scored, the same command goes on"):
        write_scored(out, range(10), stop, {"pair": "one", "inputs": "x"})


def test_drift_is_refused_by_name_and_restart_begins_again(tmp_path):
    out = tmp_path / "out.jsonl"
    stopped(out)
    with pytest.raises(ResumeMismatch, match=r"pair: one → two(.|\n)*--restart"):
        write_scored(out, range(10), records, {"pair": "two", "inputs": "x"})
    assert write_scored(out, range(10), records, {"pair": "two", "inputs": "x"}, restart=True) == 0
    assert len(lines(out)) == 10


def test_two_runs_into_one_file_are_refused(tmp_path):
    with RunLock(tmp_path / "out.jsonl"), pytest.raises(RunLocked, match="in use"):
        write_scored(tmp_path / "out.jsonl", range(10), records, {})
