"""A real S3 server (moto) on loopback, and a proxy in front of it that counts requests and makes them fail on demand."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from raydvae.data import retry
from raydvae.data.store import Store

PAGE = 50  # keys in one answer to a listing; real stores give 1000
STARTS_WITHIN = 60.0  # seconds
# Ends with its parent, however that ends: its standard input is then closed.
SERVER = """
import logging, sys
logging.getLogger("werkzeug").setLevel(logging.ERROR)
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
ANSWERS = {
    "slow down": (503, "SlowDown", "Please reduce your request rate."),
    "internal": (500, "InternalError", "We encountered an internal error. Please try again."),
    "unavailable": (503, "ServiceUnavailable", "Service is unable to handle request."),
    "not deleted": (200, "InternalError", "We encountered an internal error. Please try again."),
    "not allowed": (200, "AccessDenied", "Access Denied"),
    "talkative": (403, "SignatureDoesNotMatch", "Not the signature of a-secret-of-tests."),
    "upload lost": (404, "NoSuchUpload", "The specified upload does not exist."),
    "revoked": (403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."),
}
ERRORS = ("slow down", "internal", "unavailable")


@dataclass(slots=True)
class S3Server:
    """Where a server listens, and how stores reach it."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, Any]:
        return {"endpoint_url": self.url, "key": "a-key-of-tests", "secret": "a-secret-of-tests"}

    def store(self, name: str = "") -> Store:
        """A new, empty bucket, or an address in a bucket that is there."""
        if not name:
            name = f"bucket-{uuid.uuid4().hex[:12]}"
            Store(f"s3://{name}", self.options).fs.mkdir(name)
        return Store(f"s3://{name}", self.options)


@dataclass(slots=True)
class Fault:
    """What to do to some requests: those of ``operations`` (all when empty), each with probability ``rate``.

    ``times`` bounds how often. The kinds are those of `ANSWERS` (two are for DeleteObjects), and: "error" (one of three 5xx), "reset" (the
    connection is reset, half the time after the server did what was asked), "cut" (half of the body comes, then the
    end), "slow" (the answer comes after ``seconds``).
    """

    kind: str
    rate: float = 1.0
    operations: tuple[str, ...] = ()
    times: int | None = None
    skip: int = 0  # that many requests pass first
    seconds: float = 0.0


@dataclass(slots=True)
class Proxy(S3Server):
    """Forwards to ``behind`` what comes to ``port``."""

    behind: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    draw: random.Random = field(default_factory=random.Random)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def inject(self, kind: str, seed: int = 0, **rule: Any) -> None:
        """Add a fault, see `Fault`."""
        with self.lock:
            self.draw.seed(seed)
            self.faults.append(Fault(kind, **rule))

    def calm(self) -> None:
        """No more faults, and counting begins anew."""
        with self.lock:
            self.faults.clear()
            self.requests.clear()
            self.injected.clear()

    def decide(self, operation: str) -> tuple[str, float, float]:
        """Count a request and return its fault ("" for none), a number in [0, 1) to vary it, and its seconds."""
        with self.lock:
            self.requests[operation] += 1
            for fault in self.faults:
                if fault.operations and operation not in fault.operations:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                if fault.times == 0 or self.draw.random() >= fault.rate:
                    continue
                if fault.times:
                    fault.times -= 1
                self.injected[fault.kind] += 1
                return fault.kind, self.draw.random(), fault.seconds
        return "", 0.0, 0.0


def operation_of(method: str, target: str) -> str:
    """Name a request as S3's reference does."""
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    key = parts.path.strip("/").partition("/")[2]
    if method == "GET" and not key:
        return "ListMultipartUploads" if "uploads" in query else "ListObjectsV2"
    if "uploadId" in query or "uploads" in query:
        post = "CreateMultipartUpload" if "uploads" in query else "CompleteMultipartUpload"
        return {"PUT": "UploadPart", "DELETE": "AbortMultipartUpload", "POST": post}[method]
    if method == "POST" and "delete" in query:
        return "DeleteObjects"
    return {"GET": "Get", "HEAD": "Head", "PUT": "Put", "DELETE": "Delete", "POST": "Post"}[method] + (
        "Object" if key else "Bucket"
    )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # headers and body leave together, or an acknowledgment is waited for
    proxy: Proxy

    def log_message(self, *_: Any) -> None:
        pass

    def handle_expect_100(self) -> bool:
        super().handle_expect_100()
        self.wfile.flush()
        return True

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        assert "chunked" not in self.headers.get("Transfer-Encoding", ""), "the proxy does not read chunked bodies"
        kind, vary, seconds = self.proxy.decide(operation_of(self.command, self.path))
        if kind == "error":
            kind = ERRORS[int(vary * len(ERRORS))]
        if kind in ANSWERS:
            return self.refuse(*ANSWERS[kind])
        if kind == "reset" and vary < 0.5:
            return self.reset()
        if kind == "slow":
            time.sleep(seconds)
        status, reason, headers, data = self.ask(body)
        if kind == "reset":
            return self.reset()
        if kind == "cut":
            data = data[: len(data) // 2]
            self.close_connection = True
        self.answer(status, reason, headers, data)
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815

    def ask(self, body: bytes) -> tuple[int, str, list[tuple[str, str]], bytes]:
        server = http.client.HTTPConnection("127.0.0.1", self.proxy.behind, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            server.request(self.command, self.path, body, headers)
            answer = server.getresponse()
            data = answer.read()
            kept = [pair for pair in answer.getheaders() if pair[0].lower() not in {"connection", "transfer-encoding"}]
            if not any(name.lower() == "content-length" for name, _ in kept):
                kept.append(("Content-Length", str(len(data))))
            return answer.status, answer.reason, kept, data
        finally:
            server.close()

    def answer(self, status: int, reason: str, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response_only(status, reason)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    def refuse(self, status: int, code: str, message: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        if status == 200:  # S3's answer to DeleteObjects is good even if no object could be deleted
            text = f"<DeleteResult>{text.replace('<Error>', '<Error><Key>x</Key>')}</DeleteResult>"
        data = f'<?xml version="1.0"?>{text}'.encode()
        self.answer(status, code, [("Content-Type", "application/xml"), ("Content-Length", str(len(data)))], data)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()  # with this setting it sends RST
        self.close_connection = True

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the connection was reset, by us or by the client
            super().finish()


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        pass  # a client that went away is no news here


def start_server() -> Iterator[S3Server]:
    """Run a server until the generator is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE), "AWS_DEFAULT_REGION": "us-east-1"},
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        ready, _, _ = select.select([process.stdout], [], [], STARTS_WITHIN)
        line = process.stdout.readline() if ready else ""
        assert line.strip().isdigit(), f"the S3 server did not start within {STARTS_WITHIN:.0f} s"
        yield S3Server(int(line))
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()


def start_proxy(behind: int) -> Iterator[Proxy]:
    """Run a proxy until the generator is closed."""
    proxy = Proxy(port=0, behind=behind)
    listener = Listener(("127.0.0.1", 0), type("Bound", (Handler,), {"proxy": proxy}))
    proxy.port = listener.server_address[1]
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server; ask it for a new bucket by ``s3_server.store()``."""
    yield from start_server()


@pytest.fixture(scope="session")
def s3_proxy_shared(s3_server: S3Server) -> Iterator[Proxy]:
    """One proxy for all: a new address would cost each test a new client, which takes longer than most tests."""
    yield from start_proxy(s3_server.port)


@pytest.fixture
def s3_proxy(s3_proxy_shared: Proxy) -> Iterator[Proxy]:
    """The same server behind a proxy without faults, whose counts begin at 0."""
    s3_proxy_shared.calm()
    yield s3_proxy_shared
    s3_proxy_shared.calm()


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> retry.Policy:
    """The number of tries as always, with hardly any waiting between them."""
    policy = retry.Policy(first=0.005, longest=0.05)
    monkeypatch.setattr(retry, "POLICY", policy)
    return policy
