"""Clients that open connections and send or read nothing, with a good client beside them: a gateway on a real port,
with few files.
"""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from backend.gateway.app import create_gateway
from backend.gateway.directory import ReplicaAddress
from backend.gateway.serve import server_of
from backend.infra.http_server import ClientTimeouts
from tests.support.gateway_fixtures import MemoryDirectory, ScriptedReplica, eventually, scripted
from tests.support.installation import free_port

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
ROOT = Path(__file__).parents[3]
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
SERVE = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024))
from backend.gateway.app import create_gateway
from backend.gateway.serve import server_of
from backend.infra.http_server import ClientTimeouts
from tests.support.gateway_fixtures import MemoryDirectory
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(1024)
gateway = create_gateway(MemoryDirectory({"m": []}, keys_required=False))
server = server_of(gateway, patience=ClientTimeouts(head_s=3600))
print(listener.getsockname()[1], resource.getrlimit(resource.RLIMIT_NOFILE)[0], flush=True)
server.run(sockets=[listener])
"""


@contextmanager
def guarded(directory: MemoryDirectory, *, patience: ClientTimeouts, most: int = 100) -> Iterator[int]:
    """A gateway as it is served, with less patience; its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = server_of(create_gateway(directory), patience=patience, most=most)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        eventually(lambda: server.started)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(60)


@pytest.fixture
def replica() -> Iterator[tuple[ScriptedReplica, MemoryDirectory]]:
    with scripted() as (replica, url):
        yield replica, MemoryDirectory({"m": [ReplicaAddress(id="r1", url=url, token="t")]}, keys_required=False)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=200)


def is_closed(connection: socket.socket) -> bool:
    """Return whether the server closed a connection on which it has nothing to send."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_a_thousand_half_heads_leave_a_gateway_with_1024_files_answering() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    process = subprocess.Popen([sys.executable, "-c", SERVE], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port, files = map(int, process.stdout.readline().split())
        assert files == 1024, "as many as the system grants"
        with ExitStack() as stack:
            for number in range(1100):
                connection = stack.enter_context(connect(port))
                connection.sendall(HEAD)
                if number % 50 == 49:
                    assert httpx2.get(f"http://127.0.0.1:{port}/v1/models").status_code == 200
    finally:
        process.kill()
        process.communicate()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_heads_and_bodies_have_a_time_limit_that_drops_of_bytes_do_not_renew(
    replica: tuple[ScriptedReplica, MemoryDirectory],
) -> None:
    with guarded(replica[1], patience=ClientTimeouts(head_s=1, body_s=2, send_s=60)) as port, ExitStack() as stack:
        silent, head, body = (stack.enter_context(connect(port)) for _ in range(3))
        body.sendall(HEAD + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        ended: dict[str, float] = {}
        began = time.monotonic()

        def drip(name: str, connection: socket.socket, byte: bytes) -> None:
            try:
                while True:
                    connection.sendall(byte)
                    time.sleep(0.1)
            except ConnectionError:
                ended[name] = time.monotonic() - began

        threads = [
            threading.Thread(target=drip, args=("head", head, b"a")),
            threading.Thread(target=drip, args=("body", body, b" ")),
        ]
        head.sendall(HEAD)
        for thread in threads:
            thread.start()
        assert is_closed(silent)
        for thread in threads:
            thread.join()
        assert ended["head"] >= 1
        assert ended["body"] >= 2
        # a connection that has served may rest for longer
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.post("/v1/chat/completions", json=BODY).status_code == 200
            time.sleep(2.5)
            assert client.post("/v1/chat/completions", json=BODY).status_code == 200


def test_a_client_that_does_not_read_loses_its_answer_and_the_replica_is_free(
    replica: tuple[ScriptedReplica, MemoryDirectory],
) -> None:
    scripted_replica, directory = replica
    scripted_replica.tokens, scripted_replica.word = 10**9, "x" * 10_000
    with guarded(directory, patience=ClientTimeouts(send_s=1)) as port, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        body = json.dumps({**BODY, "stream": True}).encode()
        connection.sendall(HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        eventually(lambda: scripted_replica.left == 1)
        assert directory.last(1).status == "aborted"


def test_above_the_limit_connections_without_a_request_make_room_and_answers_stay(
    replica: tuple[ScriptedReplica, MemoryDirectory],
) -> None:
    scripted_replica, directory = replica
    scripted_replica.tokens, scripted_replica.delay_s = 60, 0.05
    with guarded(directory, patience=ClientTimeouts(), most=20) as port, ExitStack() as stack:
        url = f"http://127.0.0.1:{port}"
        open_ = [
            stack.enter_context(
                httpx2.stream("POST", f"{url}/v1/chat/completions", json={**BODY, "stream": True}, timeout=60)
            )
            for _ in range(3)
        ]
        for _ in range(40):
            stack.enter_context(connect(port)).sendall(HEAD)
        assert httpx2.get(f"{url}/v1/models").status_code == 200
        for response in open_:
            assert "w59" in response.read().decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_gateway_opens_its_own_socket_where_it_is_given_an_address(host: str, tmp_path: Path) -> None:
    port = free_port()
    environment = {"PATH": "/usr/bin:/bin", "ROUNDHOUSE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "backend.gateway.serve", host, str(port)], cwd=ROOT, env=environment
    )
    try:
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/health"
        eventually(lambda: _answers(address))
    finally:
        process.terminate()
        process.wait(120)


def _answers(address: str) -> bool:
    try:
        return httpx2.get(address).status_code in (200, 503)
    except httpx2.HTTPError:
        return False
