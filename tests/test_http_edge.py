"""Heads that are endless or never come: over real connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn

from proxy.http_edge import EdgeProtocol
from tests.api.panel import Panel


class Hasty(EdgeProtocol):
    head_timeout_s = 0.05


@contextmanager
def served(protocol: type[EdgeProtocol]) -> Iterator[tuple[str, int]]:
    config = uvicorn.Config(Panel().app, port=0, log_level="error", lifespan="off", http=protocol)
    server, started = uvicorn.Server(config), threading.Event()
    startup = server.startup

    async def tell(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets)
        started.set()

    server.startup = tell  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run)
    thread.start()
    assert started.wait(30)
    try:
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        thread.join()


def everything(connection: socket.socket) -> bytes:
    connection.settimeout(20)
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize("begin", [b"GET /health HTTP/1.1\r\nx-long: ", b"GET /"])
def test_an_endless_head_is_cut_off(begin: bytes) -> None:
    sent = 0
    with served(EdgeProtocol) as address, socket.create_connection(address) as connection:
        connection.sendall(begin)
        try:
            while sent < 64 * 2**20:
                sent += connection.send(b"a" * 65536)
        except OSError:
            pass
        assert sent < 32 * 2**20


def test_a_long_head_is_told_so() -> None:
    with served(EdgeProtocol) as address, socket.create_connection(address) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nx-long: " + b"a" * (65 * 1024))
        assert everything(connection).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("begin", [b"", b"GET /health HT"])
def test_a_head_that_does_not_come_ends_the_connection(begin: bytes) -> None:
    with served(Hasty) as address, socket.create_connection(address) as connection:
        connection.sendall(begin)
        assert everything(connection).startswith(b"HTTP/1.1 408 ")


def test_requests_are_answered_one_after_the_other_and_between_them_there_is_time() -> None:
    asked = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    with served(EdgeProtocol) as address, socket.create_connection(address) as connection:
        connection.sendall(asked * 2 + last)
        assert everything(connection).count(b"HTTP/1.1 200 ") == 3
