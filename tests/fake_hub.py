"""A model hub on this machine, which keeps what is uploaded to it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeHub:
    """What a hub was asked for."""

    def __init__(self) -> None:
        self.address = ""
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        self.private = True
        """Whether the place is private."""
        self.refusal = 0
        """Status with which everything is refused; 0: nothing is."""
        self.large: tuple[str, ...] = ()
        """Endings of names whose files go to the store for large files."""
        self.store: dict[str, bytes] = {}
        """Large files by their hashes."""
        self.lost = False
        """Whether the store says that it cannot take a file."""

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """Answer a request."""
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return {"url": f"{self.address}/someone/model", "name": "someone/model"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            return {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(self.large) else "regular",
                        "shouldIgnore": False,
                    }
                    for file in files
                ]
            }
        if path.endswith("/info/lfs/objects/batch"):
            return {
                "transfer": "basic",
                "objects": [self.place(file) for file in json.loads(body)["objects"]],
            }
        if path.startswith("/verify/"):
            sent = json.loads(body)
            assert len(self.store[sent["oid"]]) == sent["size"]
            return {}
        if "/commit/" in path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
                if entry["key"] == "lfsFile":
                    self.files[entry["value"]["path"]] = self.store[entry["value"]["oid"]]
            return {
                "success": True,
                "commitOid": "0" * 40,
                "commitUrl": f"{self.address}/someone/model/commit/{'0' * 40}",
                "hookOutput": "",
            }
        raise AssertionError(f"the hub was asked for {path}")

    def place(self, file: dict[str, Any]) -> dict[str, Any]:
        """Say where a large file is to be sent."""
        if self.lost:
            return {**file, "error": {"code": 507, "message": "the store is full"}}
        return {
            **file,
            "actions": {
                "upload": {"href": f"{self.address}/store/{file['oid']}"},
                "verify": {"href": f"{self.address}/verify/{file['oid']}"},
            },
        }


@contextmanager
def open_hub() -> Iterator[FakeHub]:
    """Open a hub that is there as long as the block is."""
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path.startswith("/api/models/someone/model"), self.path
            self.reply({"id": "someone/model", "private": hub.private})

        def do_POST(self) -> None:
            hub.tokens.add(self.headers.get("authorization", ""))
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            self.reply({"error": "no"} if hub.refusal else hub.answer(self.path, body))

        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            oid = self.path.removeprefix("/store/")
            assert hashlib.sha256(data).hexdigest() == oid
            hub.store[oid] = data
            self.reply({})

        def reply(self, answer: dict[str, Any]) -> None:
            data = json.dumps(answer).encode()
            self.send_response(hub.refusal or 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
