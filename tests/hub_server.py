"""A hub on this machine: what huggingface_hub asks for when it makes a repository, commits to it and reads it, over
HTTP. Repositories are dicts in memory, and large files come by LFS's own way, as from clients without hf_xet."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_" + "x" * 34
PORT: list[int] = []  # the same for each hub of a process: huggingface_hub keeps the first address it was given


def sha(branch: str) -> str:
    """The commit that a branch is at."""
    return hashlib.sha1(branch.encode()).hexdigest()


@dataclass
class Hub:
    """repositories: {owner/name: {branch: {file: bytes}}}. faults: {a part of "METHOD /path": (status, what it says)}.
    asked: every request."""

    url: str = ""
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def answer(self, asked: str, body: bytes, token: str | None) -> tuple[int, Any]:
        """(status, JSON or bytes)"""
        self.asked.append(asked)
        for part, (status, words) in self.faults.items():
            if part in asked:
                return status, {"error": words, "errors": [{"message": words}]}
        method, path = asked.split(" ", 1)
        parts = path.strip("/").split("/")
        if method == "PUT" and parts[0] == "lfs":
            self.large[parts[1]] = body
            return 200, {}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "type": "user"}
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, self._batch(json.loads(body))
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name not in self.repositories:
            return 404, {"error": "Repository not found"}
        return self._of(name, parts[4:] if parts[0] == "api" else parts[2:], body)

    def _of(self, name: str, rest: list[str], body: bytes) -> tuple[int, Any]:
        what, branches = rest[0], self.repositories[name]
        branch = {sha(each): each for each in branches}.get(unquote(rest[1]), unquote(rest[1]))
        if what == "branch":
            there = branch in branches
            branches.setdefault(branch, dict(branches["main"]))
            return (409, {"error": "Reference already exists"}) if there else (200, {})
        if branch not in branches:
            return 404, {"error": "Invalid rev id"}
        files = branches[branch]
        if what == "preupload":
            asked = json.loads(body)["files"]
            modes = [{"path": each["path"], "uploadMode": self._mode(each["path"])} for each in asked]
            return 200, {"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]}
        if what == "commit":
            self._commit(files, [json.loads(line) for line in body.splitlines()])
            return 200, {
                "success": True,
                "commitOid": sha(branch),
                "commitUrl": f"{self.url}/{name}/commit/{sha(branch)}",
            }
        if what == "tree":
            return 200, [{"type": "file", "path": path, "oid": "0", "size": len(text)} for path, text in files.items()]
        if what == "revision":
            return 200, {"id": name, "sha": sha(branch), "siblings": [{"rfilename": path} for path in files]}
        path = "/".join(rest[2:])
        return (200, files[path]) if what == "resolve" and path in files else (404, {"error": "Entry not found"})

    def _commit(self, files: dict[str, bytes], lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
                assert hashlib.sha256(files[value["path"]]).hexdigest() == value["oid"]
            else:
                assert line["key"] == "deletedFile", line
                del files[value["path"]]

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        name, there = f"{body['organization']}/{body['name']}", {"url": f"{self.url}/{body['organization']}/x"}
        if name in self.repositories:
            return 409, {**there, "error": "You already created this model repo"}
        self.repositories[name], self.private[name] = {"main": {}}, body.get("visibility") == "private"
        return 200, {"url": f"{self.url}/{name}"}

    def _batch(self, body: dict[str, Any]) -> dict[str, Any]:
        upload = {each["oid"]: {"upload": {"href": f"{self.url}/lfs/{each['oid']}"}} for each in body["objects"]}
        return {"transfer": "basic", "objects": [{**each, "actions": upload[each["oid"]]} for each in body["objects"]]}

    def _validate(self, content: str) -> tuple[int, Any]:
        front = yaml.safe_load(content.split("---\n")[1])
        faults = [] if isinstance(front, dict) else [{"message": "is no mapping"}]
        return (400 if faults else 200), {"errors": faults, "warnings": []}

    @staticmethod
    def _mode(path: str) -> str:
        return "lfs" if path.endswith(".safetensors") else "regular"


@contextmanager
def hub(token: str | None = TOKEN) -> Iterator[Hub]:
    """A hub that huggingface_hub goes to, with this token, as long as the block lasts."""
    from huggingface_hub import constants

    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            method = "GET" if self.command == "HEAD" else self.command
            status, content = state.answer(
                f"{method} {urlsplit(self.path).path}", body, self.headers.get("Authorization")
            )
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            revision = unquote((self.path.partition("/resolve/")[2] or "main").split("/")[0])
            self.send_header("X-Repo-Commit", revision if re.fullmatch("[0-9a-f]{40}", revision) else sha(revision))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_PUT = _serve

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", PORT[0] if PORT else 0), Handler)
    PORT[:] = [server.server_port]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    names: dict[str, Any] = {
        "ENDPOINT": state.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": state.url + "/{repo_id}/resolve/{revision}/{filename}",
    }
    environment = {"NO_PROXY": "*", "no_proxy": "*", "HF_TOKEN": token or ""}
    try:
        with mock.patch.multiple(constants, **names, HF_HUB_DISABLE_XET=True, HF_HUB_OFFLINE=False):
            with mock.patch.dict("os.environ", environment), mock.patch.object(constants, "HF_TOKEN_PATH", "/nowhere"):
                yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
