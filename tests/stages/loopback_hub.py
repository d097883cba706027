"""A Hugging Face hub on this machine, which answers as huggingface.co does."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

MAIN, OLD = "a" * 40, "b" * 40
REVISIONS = {"main": MAIN, MAIN: MAIN, "v1": OLD, OLD: OLD}


class Hub:
    """A hub on this machine.

    Attributes:
      folders: By repository and commit.
      requests: Paths that were asked for.
      uploads: Files that were uploaded, by repository and name.
      tokens: The `Authorization` headers of all requests.
    """

    def __init__(self, folders: dict[tuple[str, str], Path]) -> None:
        self.folders, self.requests, self.uploads, self.tokens = folders, [], {}, set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, with_body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, with_body=False)

            def do_POST(self) -> None:
                hub.accept(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        path = request.path.partition("?")[0]
        self.requests.append(path)
        self.tokens.add(request.headers["Authorization"])
        match path.strip("/").split("/"):
            case ["api", "models", owner, name, "revision", revision]:
                files = self.files(f"{owner}/{name}", revision)
                body = files and {
                    "id": f"{owner}/{name}",
                    "sha": REVISIONS[revision],
                    "siblings": [{"rfilename": file} for file in files],
                }
            case ["api", "models", owner, name, "tree", revision]:
                files = self.files(f"{owner}/{name}", revision)
                body = files and [
                    {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for file, data in files.items()
                ]
            case [owner, name, "resolve", revision, file]:
                body = self.files(f"{owner}/{name}", revision).get(file)
            case _:
                body = None
        found = body is not None and body != {}
        data = body if isinstance(body, bytes) else json.dumps(body if found else {"error": "not found"}).encode()
        request.send_response(200 if found else 404)
        request.send_header("Content-Length", str(len(data)))
        if found:
            request.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            request.send_header("X-Repo-Commit", REVISIONS.get(path.split("/")[-2], MAIN))
        else:
            request.send_header("X-Error-Code", "EntryNotFound" if "resolve" in path else "RepoNotFound")
        request.end_headers()
        if with_body:
            request.wfile.write(data)

    def accept(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        self.tokens.add(request.headers["Authorization"])
        match request.path.partition("?")[0].strip("/").split("/"):
            case ["api", "repos", "create"]:
                made = json.loads(body)
                answer = {"url": f"{self.address}/{made.get('organization') or 'me'}/{made['name']}"}
            case ["api", "validate-yaml"]:
                answer = {"errors": [], "warnings": []}
            case ["api", "models", _, _, "preupload", _]:
                names = [file["path"] for file in json.loads(body)["files"]]
                answer = {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
            case ["api", "models", owner, name, "commit", _]:
                entries = [json.loads(line) for line in body.splitlines()]
                files = [entry["value"] for entry in entries if entry["key"] == "file"]
                self.uploads.setdefault(f"{owner}/{name}", {}).update(
                    {file["path"]: base64.b64decode(file["content"]) for file in files}
                )
                answer = {"commitUrl": f"{self.address}/{owner}/{name}/commit/{MAIN}", "commitOid": MAIN}
        data = json.dumps(answer).encode()
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def files(self, repository: str, revision: str) -> dict[str, bytes]:
        folder = self.folders.get((repository, REVISIONS.get(revision, "")))
        return {entry.name: entry.read_bytes() for entry in sorted(folder.iterdir())} if folder else {}

    @contextmanager
    def serving(self, *, cache: Path) -> "Iterator[Hub]":
        """Answers while the `with` block runs, and is the hub that huggingface_hub asks."""
        # As HF_ENDPOINT and HF_HOME in the environment would, were the library not imported already.
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, self.address)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            patch.setattr(constants, "ENDPOINT", self.address)
            patch.setattr(constants, "HF_HUB_CACHE", str(cache))
            thread = threading.Thread(target=self.server.serve_forever)
            thread.start()
            try:
                yield self
            finally:
                self.server.shutdown()
                thread.join()
                self.server.server_close()
