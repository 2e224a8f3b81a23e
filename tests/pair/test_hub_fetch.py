"""Fetching from a hub: a small one on this machine, asked by a process of its own, with all its refusals."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from pairtune.pair.files import write_safetensors

COMMITS = {"main": "a" * 40, "v1": "b" * 40}
ASK = """
import json, sys
from pairtune.errors import InputError
from pairtune.pair.hub import local_folder
from pairtune.pair.files import checkpoint_files, safe_join
answers = []
for name, revision in json.loads(sys.argv[1]):
    try:
        folder = local_folder(name, revision)
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        answers.append({"files": files, "card": safe_join(folder, "config.json").read_text()})
        checkpoint_files(folder)
    except InputError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


class Hub:
    """The part of the hub's interface that a download uses; remembers which files were asked for."""

    def __init__(self, weights: bytes, delta: bytes):
        # Two contents: a file whose content is already in the cache is not fetched again.
        self.files = {
            "model.safetensors": weights,
            "tokenizer.json": b"{}",
            "stack/0/delta.safetensors": delta,
            "chat_template.jinja": b"{{ messages }}",
            "README.md": b"words",
            "COMPLETE": b"{}",
            "pytorch_model.bin": b"pickle",
            "modeling_evil.py": b"code",
            "training_args.bin": b"pickle",
            "consolidated.safetensors": weights,
            "original/model.safetensors": weights,
        }
        self.asked: set[str] = set()
        self.stall, self.stalled = False, threading.Event()

    def content(self, commit: str, name: str) -> bytes:
        return json.dumps({"commit": commit}).encode() if name == "config.json" else self.files[name]

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        parts = path.split("?")[0].strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name == "owner/absent":
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if name == "owner/gated":
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        if parts[0] == "api" and len(parts) < 6:
            return 404, {}, b"{}"
        if parts[0] == "api":
            commit = COMMITS.get(parts[5], parts[5])
            if commit not in COMMITS.values():
                return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
            if parts[4] == "revision":
                return 200, {}, json.dumps({"id": name, "sha": commit, "siblings": []}).encode()
            names = ["config.json", *self.files]
            tree = [
                {
                    "type": "file",
                    "path": file,
                    "size": len(self.content(commit, file)),
                    "oid": hashlib.sha1(self.content(commit, file)).hexdigest(),
                }
                for file in names
            ]
            return 200, {}, json.dumps(tree).encode()
        commit, file = parts[3], "/".join(parts[4:])
        self.asked.add(file)
        content = self.content(commit, file)
        return 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit}, content


@pytest.fixture
def server(tmp_path):
    for name, fill in (("weights", 1.0), ("delta", 2.0)):
        write_safetensors(tmp_path / f"{name}.safetensors", {"a": torch.full((2000,), fill)})
    remote = Hub(*((tmp_path / f"{name}.safetensors").read_bytes() for name in ("weights", "delta")))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = remote.answer(self.path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET" and remote.stall and "model.safetensors" in self.path:
                self.wfile.write(body[:100])
                self.wfile.flush()
                remote.stalled.set()
                time.sleep(20)
            elif self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64  # a snapshot is fetched by many connections at once; the default of 5 refuses some

    with Server(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        remote.url = f"http://127.0.0.1:{running.server_port}"
        yield remote
        running.daemon_threads = True
        running.block_on_close = False
        running.shutdown()


def asking(tmp_path: Path, url: str, *questions: tuple[str, str | None], offline: bool = False) -> subprocess.Popen:
    """Start a process that asks the hub at `url`."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    command = [sys.executable, "-c", ASK, json.dumps(questions)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ask(*arguments: Any, offline: bool = False) -> list:
    """The answers of a process that asks the hub: an error's text, or what is in the folder."""
    process = asking(*arguments, offline=offline)
    answers, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return json.loads(answers)


def test_fetching_refusing_and_working_from_the_cache(tmp_path, server):
    pinned, newest, absent, gated, revision, malformed = ask(
        tmp_path,
        server.url,
        ("owner/model", "v1"),
        ("owner/model", None),
        ("owner/absent", None),
        ("owner/gated", None),
        ("owner/model", "v9"),
        ("owner/--model", None),
    )
    wanted = {"README.md", "chat_template.jinja", "config.json", "model.safetensors", "stack/0/delta.safetensors"}
    assert set(pinned["files"]) == wanted | {"tokenizer.json", "COMPLETE"}
    assert json.loads(pinned["card"])["commit"] == COMMITS["v1"]
    assert json.loads(newest["card"])["commit"] == COMMITS["main"]
    assert not any("bin" in name or name.endswith(".py") or "consolidated" in name for name in server.asked)
    assert "no such model on the hub" in absent
    assert "access to this model is restricted" in gated
    assert "accept its terms" in gated
    assert "no such revision" in revision
    assert "'owner/model' at revision 'v9'" in revision
    assert "the hub does not allow such a name" in malformed

    cached, missing = ask(tmp_path, server.url, ("owner/model", "v1"), ("owner/other", None), offline=True)
    assert cached == pinned
    assert "it is not in the hub's cache, and the hub is switched off (HF_HUB_OFFLINE)" in missing


def test_an_interrupted_download_is_never_used(tmp_path, server):
    server.stall = True
    process = asking(tmp_path, server.url, ("owner/model", None))
    while not server.stalled.wait(0.1):
        assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()
    (offline,) = ask(tmp_path, server.url, ("owner/model", None), offline=True)
    assert "only a part of it is in the hub's cache" in offline
    server.stall = False
    (whole,) = ask(tmp_path, server.url, ("owner/model", None))
    assert "model.safetensors" in whole["files"]


def test_a_hub_that_cannot_be_reached(tmp_path):
    (answer,) = ask(tmp_path, "http://127.0.0.1:9", ("owner/model", None))
    assert "cannot be reached" in answer
