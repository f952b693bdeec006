"""The line of the fault campaign: it stops a connection exactly where it is told to."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from faults.line import Line, Trap

WORDS = re.compile(rb"EVALSHA [0-9a-f]{8}")
QUESTION = b"PING;EVALSHA 0123abcd;"


class Server:
    """Answers every `...;` with `ok;`, and remembers what it was asked."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.asked = b""
        self.heard = threading.Condition()
        threading.Thread(target=self._serve, daemon=True).start()

    def until_asked(self, words: bytes) -> None:
        with self.heard:
            assert self.heard.wait_for(lambda: self.asked.endswith(words), 10), self.asked

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self.socket.accept()
                threading.Thread(target=self._answer, args=(near,), daemon=True).start()

    def _answer(self, near: socket.socket) -> None:
        with suppress(OSError), near:
            while data := near.recv(1000):
                with self.heard:
                    self.asked += data
                    self.heard.notify_all()
                near.sendall(b"ok;" * data.count(b";"))


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.socket.close()


@pytest.fixture
def line(server: Server) -> Iterator[Line]:
    one = Line(server.socket.getsockname())
    yield one
    one.close()


@pytest.fixture
def client(line: Line) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", line.port), timeout=10) as one:
        yield one


def hears(client: socket.socket, words: bytes) -> bool:
    heard = b""
    while len(heard) < len(words) and (more := client.recv(len(words) - len(heard))):
        heard += more
    return heard == words


def hears_nothing(client: socket.socket) -> bool:
    client.settimeout(0.2)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return True
    finally:
        client.settimeout(10)


def test_before_not_one_byte_of_the_words_arrives_and_what_came_ahead_of_them_does(
    server: Server, line: Line, client: socket.socket
) -> None:
    trap = line.set_trap(Trap(WORDS))
    client.sendall(QUESTION)
    assert trap.sprung.wait(30)
    server.until_asked(b"PING;")
    assert hears_nothing(client)
    assert server.asked == b"PING;"
    line.release()
    assert hears(client, b"ok;ok;")
    assert server.asked == QUESTION


def test_after_the_server_acts_and_its_answer_never_arrives(server: Server, line: Line, client: socket.socket) -> None:
    trap = line.set_trap(Trap(WORDS, after=True))
    client.sendall(QUESTION)
    assert trap.sprung.wait(30)
    server.until_asked(QUESTION)
    assert hears_nothing(client)


def test_words_that_arrive_in_two_pieces_are_recognised_at_the_sight_that_was_meant(
    server: Server, line: Line, client: socket.socket
) -> None:
    trap = line.set_trap(Trap(WORDS, nth=2))
    client.sendall(QUESTION)
    assert hears(client, b"ok;ok;")
    client.sendall(b"EVALSHA 0123")
    server.until_asked(b"EVALSHA 0123")
    client.sendall(b"abcd;")
    assert trap.sprung.wait(30)
    assert hears_nothing(client)


def test_a_black_hole_passes_nothing_and_then_everything(server: Server, line: Line, client: socket.socket) -> None:
    client.sendall(b"PING;")
    assert hears(client, b"ok;")
    line.swallow()
    client.sendall(b"PING;")
    assert hears_nothing(client)
    line.release()
    assert hears(client, b"ok;")


def test_a_cut_ends_the_connection_and_a_new_one_works(server: Server, line: Line, client: socket.socket) -> None:
    client.sendall(b"PING;")
    assert hears(client, b"ok;")
    line.cut()
    with suppress(ConnectionResetError):
        assert client.recv(1) == b""
    with socket.create_connection(("127.0.0.1", line.port), timeout=10) as again:
        again.sendall(b"PING;")
        assert hears(again, b"ok;")


def test_a_line_that_refuses_resets_what_there_is_and_listens_again_on_the_same_port(
    server: Server, line: Line, client: socket.socket
) -> None:
    client.sendall(b"PING;")
    assert hears(client, b"ok;")
    line.refuse()
    with suppress(ConnectionResetError):
        assert client.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", line.port), timeout=10)
    line.accept()
    with socket.create_connection(("127.0.0.1", line.port), timeout=10) as again:
        again.sendall(b"PING;")
        assert hears(again, b"ok;")
