"""A Hub on loopback: enough of its API to take a commit and to give the files back."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeHub:
    """What was sent: `repositories` by id, each with its files; `private` by id; `requests`, every path asked for."""

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[str] = []

    def handler(hub):  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def answer(self, body=b"", status=200, headers=()):
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = self.path.split("?")[0]
                hub.requests.append(f"POST {path}")
                address = f"http://{self.headers['Host']}"
                if path == "/api/repos/create":
                    asked = json.loads(body)
                    name = "/".join(filter(None, [asked.get("organization") or "me", asked["name"]]))
                    hub.repositories.setdefault(name, {})
                    hub.private[name] = asked.get("private", asked.get("visibility") == "private")
                    return self.answer({"url": f"{address}/{name}", "id": name})
                if "/preupload/" in path:
                    files = json.loads(body)["files"]
                    modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                    return self.answer({"files": modes})
                if "/commit/" in path:
                    name = path.removeprefix("/api/models/").partition("/commit/")[0]
                    for line in body.decode().splitlines():
                        entry = json.loads(line)
                        if entry["key"] == "file":
                            content = base64.b64decode(entry["value"]["content"])
                            hub.repositories[name][entry["value"]["path"]] = content
                    commit = {"commitUrl": f"{address}/{name}/commit/{'a' * 40}", "commitOid": "a" * 40}
                    return self.answer(commit | {"commitMessage": "", "commitDescription": ""})
                if path == "/api/validate-yaml":
                    return self.answer({"errors": [], "warnings": []})
                return self.answer({"error": path}, 404)

            def do_GET(self):
                path = self.path.split("?")[0]
                hub.requests.append(f"{self.command} {path}")
                if path == "/api/whoami-v2":
                    return self.answer({"name": "me", "type": "user", "orgs": []})
                if path.startswith("/api/models/"):
                    name = path.removeprefix("/api/models/").partition("/revision/")[0].partition("/tree/")[0]
                    files = [{"rfilename": file} for file in hub.repositories.get(name, {})]
                    if "/tree/" in path:
                        return self.answer([])
                    if name not in hub.repositories:
                        return self.answer({"error": "Repository not found"}, 404, [("X-Error-Code", "RepoNotFound")])
                    return self.answer({"id": name, "modelId": name, "siblings": files, "sha": "a" * 40, "tags": []})
                name, _, file = path.lstrip("/").partition("/resolve/")
                content = hub.repositories.get(name, {}).get(file.partition("/")[2])
                if content is None:
                    return self.answer(b"", 404, [("X-Error-Code", "EntryNotFound"), ("X-Repo-Commit", "a" * 40)])
                etag = hashlib.sha256(content).hexdigest()
                return self.answer(content, 200, [("ETag", f'"{etag}"'), ("X-Repo-Commit", "a" * 40)])

            do_HEAD = do_GET  # noqa: N815

        return Handler


@contextmanager
def fake_hub():
    """Run a Hub; yield its address and what it holds."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub.handler())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", hub
    finally:
        server.shutdown()
        server.server_close()
