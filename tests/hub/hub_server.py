"""A Hub on this machine: what huggingface_hub's client calls for models, in memory, over real HTTP.

Endpoints: creating repositories, checking a card, asking how files are to be uploaded, git-LFS objects, commits,
listing, and downloading with ranges; tokens with and without the right to write; and faults on purpose (`Fault`), one
per kind of trouble that a network or a server makes. A stand-in: nothing here has been compared with the real Hub, and
Xet is not spoken (`environment` switches it off in the client).

Small files travel in the commit, `.safetensors`, `.bin` and other binary files (or everything of at least
`lfs_threshold` bytes) as LFS objects, so that both ways are exercised. A commit is all or nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

WRITER, READER = "hf_writer", "hf_reader"
BRANCH = "main"


@dataclass
class Fault:
    """Something that goes wrong, for the requests that fit, a number of times.

    Attributes:
        kind: `status` (answer `status`), `cut` (half of the body, then the end), `reset` (half of the request's body is
            read, then the connection is reset), `corrupt` (a body of the right length and the wrong bytes).
        method: of the requests that fit.
        path: regular expression found in their path.
        times: how many of them; they are used up.
        status: HTTP status of kind `status`.
        after: fitting requests that are served as usual first.
    """

    kind: str
    method: str
    path: str
    times: int = 1
    status: int = 503
    after: int = 0


@dataclass
class Repository:
    """Files of every commit; the last one is the branch."""

    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=lambda: [("0" * 40, {})])
    large: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision in (BRANCH, "HEAD"):
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


class LocalHub:
    """The server and what it holds; use it in a `with` statement.

    Attributes:
        repositories: by id.
        objects: LFS objects by sha256.
        faults: faults that are still to come; append to it.
        requests: `(method, path, status)` of everything served.
        lfs_threshold: files from this size on are LFS objects whatever their name.
    """

    def __init__(self, lfs_threshold: int = 10_000_000) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        self.lfs_threshold = lfs_threshold
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Any, token: str | None = WRITER) -> dict[str, str]:
        """Variables under which a new process uses this Hub and nothing else of the user's."""
        variables = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        return variables | ({"HF_TOKEN": token} if token else {})

    def uploaded(self) -> list[str]:
        """Paths of the LFS objects that were put here successfully."""
        return [path for method, path, status in self.requests if method == "PUT" and status == 200]

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The first fault that fits, one time less."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                    if fault.after > 0:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None


def git_oid(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class _Refused(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.body = status, code, {"error": message, **body}


class _Handler(BaseHTTPRequestHandler):
    """One request; `routes` says which method answers which path."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"
    routes = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", r"/api/repos/create", "create"),
        ("DELETE", r"/api/repos/delete", "delete"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/paths-info/(?P<revision>[^/]+)", "paths_info"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(/(?P<folder>.*))?", "tree"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/refs", "refs"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?", "info"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
        ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    )

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `LocalHub.requests` has it."""

    def do_GET(self) -> None:
        self.dispatch("GET")

    def do_HEAD(self) -> None:
        self.dispatch("HEAD")

    def do_POST(self) -> None:
        self.dispatch("POST")

    def do_PUT(self) -> None:
        self.dispatch("PUT")

    def do_DELETE(self) -> None:
        self.dispatch("DELETE")

    def dispatch(self, method: str) -> None:
        parts = urlsplit(self.path)
        path, self.query = unquote(parts.path), parse_qs(parts.query)
        self.fault = self.hub.take_fault(method, path)
        length = int(self.headers.get("Content-Length") or 0)
        if self.fault and self.fault.kind == "reset":
            self.rfile.read(length // 2)
            self.hub.requests.append((method, path, 0))
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        self.body = (
            self.read_chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        )
        try:
            if self.fault and self.fault.kind == "status":
                codes = {401: None, 403: None, 409: None}
                raise _Refused(
                    self.fault.status, f"fault on purpose: {self.fault.status}", codes.get(self.fault.status)
                )
            for wanted, pattern, name in self.routes:
                found = re.fullmatch(pattern, path)
                if found and wanted == ("GET" if method == "HEAD" else method):
                    with self.hub.lock:
                        status, headers, content = getattr(self, name)(**found.groupdict())
                    break
            else:
                raise _Refused(404, f"no such endpoint: {method} {path}")
        except _Refused as refused:
            status, content = refused.status, json.dumps(refused.body).encode()
            headers = {"Content-Type": "application/json"}
            if refused.code:
                headers |= {"X-Error-Code": refused.code, "X-Error-Message": str(refused)}
        self.hub.requests.append((method, path, status))
        self.answer(method, status, headers, content)

    def read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, method: str, status: int, headers: dict[str, str], content: bytes) -> None:
        kind = self.fault.kind if self.fault else ""
        if kind == "corrupt":
            content = bytes(byte ^ 0xFF for byte in content)
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if method != "HEAD":
            self.wfile.write(content[: len(content) // 2] if kind == "cut" else content)
        if kind == "cut":
            self.close_connection = True

    # -- who may do what ---------------------------------------------------------------------------------------------

    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def require_writer(self) -> None:
        if self.token() not in (WRITER, READER):
            raise _Refused(401, "Invalid username or password.")
        if self.token() != WRITER:
            raise _Refused(403, "Forbidden: you don't have the rights to write to this repository.")

    def repository(self, repo: str) -> Repository:
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and self.token() not in (WRITER, READER)):
            status = 404 if self.token() else 401  # as the Hub does: it does not tell strangers what there is
            raise _Refused(status, "Repository not found", "RepoNotFound")
        return found

    def commit_of(self, repo: str, revision: str | None) -> tuple[str, dict[str, bytes]]:
        found = self.repository(repo).at(revision or BRANCH)
        if found is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def json(self, value: Any, status: int = 200) -> tuple[int, dict[str, str], bytes]:
        return status, {"Content-Type": "application/json"}, json.dumps(value).encode()

    # -- endpoints ---------------------------------------------------------------------------------------------------

    def whoami(self) -> Any:
        if self.token() not in (WRITER, READER):
            raise _Refused(401, "Invalid username or password.")
        auth = {"type": "access_token", "accessToken": {"role": "write", "displayName": "test"}}
        return self.json({"type": "user", "name": "org", "fullname": "Org", "orgs": [], "auth": auth})

    def validate(self) -> Any:
        content = json.loads(self.body)["content"]
        has_header = re.match(r"---\n.*?\n---\n", content, flags=re.DOTALL)
        problems = [] if has_header else [{"message": "the card has no metadata"}]
        return self.json({"errors": problems, "warnings": []})

    def create(self) -> Any:
        self.require_writer()
        wanted = json.loads(self.body)
        repo = f"{wanted.get('organization') or 'org'}/{wanted['name']}"
        url = f"{self.hub.endpoint}/{repo}"
        if repo in self.hub.repositories:
            raise _Refused(409, "You already created this model repo", url=url)
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.hub.repositories[repo] = Repository(private=bool(private))
        return self.json({"url": url, "name": repo, "id": repo})

    def delete(self) -> Any:
        self.require_writer()
        wanted = json.loads(self.body)
        self.hub.repositories.pop(f"{wanted.get('organization') or 'org'}/{wanted['name']}", None)
        return self.json({})

    def preupload(self, repo: str, revision: str) -> Any:
        self.require_writer()
        files = self.commit_of(repo, revision)[1]
        answers = []
        for wanted in json.loads(self.body)["files"]:
            sample = base64.b64decode(wanted.get("sample") or "")
            large = wanted["size"] >= self.hub.lfs_threshold or wanted["path"].endswith((".safetensors", ".bin", ".pt"))
            mode = "lfs" if large or b"\0" in sample else "regular"
            answer = {"path": wanted["path"], "uploadMode": mode, "shouldIgnore": False}
            if wanted["path"] in files:
                content = files[wanted["path"]]
                answer["oid"] = hashlib.sha256(content).hexdigest() if mode == "lfs" else git_oid(content)
            answers.append(answer)
        return self.json({"files": answers})

    def lfs_batch(self, repo: str) -> Any:
        self.require_writer()
        self.repository(repo)
        answers = []
        for wanted in json.loads(self.body)["objects"]:
            answer: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                answer["actions"] = {"upload": {"href": f"{self.hub.endpoint}/lfs/{wanted['oid']}"}}
            answers.append(answer)
        return self.json({"transfer": "basic", "objects": answers})

    def lfs_put(self, oid: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "the content does not have the sha256 it was announced with")
        self.hub.objects[oid] = self.body
        return 200, {}, b""

    def commit(self, repo: str, revision: str) -> Any:
        self.require_writer()
        parent, files = self.commit_of(repo, revision)
        entry, new = self.repository(repo), dict(files)
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                if value.get("parentCommit") not in (None, parent):
                    raise _Refused(412, "A commit has happened since. Please refresh and try again.")
                entry.messages.append(value.get("summary", ""))
            elif operation["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
                entry.large.discard(value["path"])
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise _Refused(400, f"{value['path']}: its LFS object was never uploaded")
                new[value["path"]] = self.hub.objects[value["oid"]]
                entry.large.add(value["path"])
            elif operation["key"] == "deletedFile":
                new.pop(value["path"], None)
            elif operation["key"] == "deletedFolder":
                new = {path: kept for path, kept in new.items() if not path.startswith(value["path"])}
        sha = hashlib.sha1(parent.encode() + self.body, usedforsecurity=False).hexdigest()
        entry.commits.append((sha, new))
        return self.json({"commitOid": sha, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{sha}", "success": True})

    def entry(self, repo: str, path: str, content: bytes) -> dict[str, Any]:
        found = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
        if path in self.hub.repositories[repo].large:
            oid = hashlib.sha256(content).hexdigest()
            found["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
        return found

    def tree(self, repo: str, revision: str, folder: str | None) -> Any:
        files = self.commit_of(repo, revision)[1]
        prefix = f"{folder.rstrip('/')}/" if folder else ""
        inside = {path: content for path, content in files.items() if path.startswith(prefix)}
        if prefix and not inside:
            raise _Refused(404, f"{folder} does not exist", "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = [
            self.entry(repo, path, content)
            for path, content in sorted(inside.items())
            if recursive or "/" not in path.removeprefix(prefix)
        ]
        names = {path.removeprefix(prefix).split("/")[0] for path in inside if "/" in path.removeprefix(prefix)}
        entries += [{"type": "directory", "path": prefix + name, "size": 0, "oid": "0" * 40} for name in sorted(names)]
        return self.json(entries)

    def paths_info(self, repo: str, revision: str) -> Any:
        files = self.commit_of(repo, revision)[1]
        text = self.body.decode()
        wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text)["paths"]
        return self.json([self.entry(repo, path, files[path]) for path in wanted if path in files])

    def refs(self, repo: str) -> Any:
        sha, _ = self.commit_of(repo, BRANCH)
        head = {"name": BRANCH, "ref": f"refs/heads/{BRANCH}", "targetCommit": sha}
        return self.json({"branches": [head], "tags": [], "converts": []})

    def info(self, repo: str, revision: str | None) -> Any:
        sha, files = self.commit_of(repo, revision)
        siblings = [{"rfilename": path} for path in sorted(files)]
        private = self.repository(repo).private
        return self.json(
            {"id": repo, "modelId": repo, "sha": sha, "siblings": siblings, "private": private, "tags": []}
        )

    def resolve(self, repo: str, revision: str, path: str) -> Any:
        sha, files = self.commit_of(repo, revision)
        if path not in files:
            raise _Refused(404, "Entry not found", "EntryNotFound")
        content = files[path]
        large = path in self.repository(repo).large
        etag = hashlib.sha256(content).hexdigest() if large else git_oid(content)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and not (int(wanted.group(1)) == 0 and not wanted.group(2)):
            start, end = int(wanted.group(1)), int(wanted.group(2) or len(content) - 1)
            if start >= len(content):
                raise _Refused(416, "Range not satisfiable")
            headers["Content-Range"] = f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"
            return 206, headers, content[start : end + 1]
        return 200, headers, content
