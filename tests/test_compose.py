"""Containers cannot be started here, but what they would run can: every command of docker-compose.yml, as it stands."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import forking
import pytest
import redis
import yaml

from tokenferry.broker import embedded

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = {name: service for name, service in COMPOSE["services"].items() if "build" in service}


@pytest.mark.timeout(400)
def test_every_command_of_the_compose_file_does_its_part_of_an_import(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    with ExitStack() as stack:
        server = stack.enter_context(embedded.running(tmp_path / "store"))
        stage.environment |= {
            "TOKENFERRY_BROKER__URL": server.redis_url,
            "TOKENFERRY_STORE__URL": server.database(1).redis_url,
            "ENDPOINT_SECRET_KEY": "sk_test_compose",
            "ENDPOINT_PUBLISHABLE_KEY": "pk_test_compose",
        }
        stage.finish("keys")
        stage.finish("keys")  # `docker compose up` runs it every time
        emulator = stack.enter_context(stage.start("emulator", "listening on"))
        stage.replace["http://127.0.0.1:12111"] = emulator.split("listening on ")[1].strip()
        stage.configure()
        stack.enter_context(stage.start("tokenize", "ready"))
        stack.enter_context(stage.start("attach", "ready"))
        stack.enter_context(stage.start("onboard", "ready"))
        for service in ("tokenize", "attach", "onboard"):
            stage.until_healthy(service)
        stage.finish("import", codes=(0, 1))
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert len(lines) >= 30
    assert {line["status"] for line in lines} <= {"tokenized", "attached", "failed"}
    assert any(line["status"] == "attached" for line in lines)


def test_the_import_container_has_nothing_that_opens_an_envelope() -> None:
    mounted = {volume.split(":")[0]: volume.split(":")[1] for volume in OURS["import"]["volumes"]}
    assert mounted["producer"] == "/keys"
    assert "keys" not in mounted
    assert OURS["import"]["build"]["target"] == "producer"


def test_every_service_of_ours_is_run_by_the_tests() -> None:
    assert set(OURS) == {"keys", "emulator", "tokenize", "attach", "onboard", "import"}


@pytest.mark.parametrize("service", ["store", "tokenize", "attach", "onboard", "import"])
def test_without_a_password_nothing_starts_and_the_message_says_what_to_write(service: str) -> None:
    """`${NAME:?text}` is what ends `docker compose` with this text."""
    values = list(COMPOSE["services"][service]["environment"].values())
    assert any("${STORE_PASSWORD:?write STORE_PASSWORD=... into .env}" in value for value in values)
    assert "guest" not in json.dumps(values)


def test_the_store_asks_for_the_password_and_no_list_of_processes_shows_it(tmp_path: Path) -> None:
    shell, flag, script = shlex.split(COMPOSE["services"]["store"]["command"])
    options = f"--port 0 --unixsocket {tmp_path}/s --dir {tmp_path}"
    script = script.replace("$$", "$").replace("valkey-server -", f"{embedded.server_program()} - {options}")
    environment = {"PATH": os.environ["PATH"], "STORE_PASSWORD": "pw"}
    server = subprocess.Popen([shell, flag, script], env=environment, start_new_session=True)
    try:
        anybody, ours = (redis.Redis(unix_socket_path=f"{tmp_path}/s", password=word) for word in (None, "pw"))
        deadline = time.monotonic() + 30
        while not (tmp_path / "s").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(redis.AuthenticationError):
            anybody.ping()
        assert ours.config_get("appendonly") == {"appendonly": "yes"} or ours.config_get("appendonly")
        assert ours.config_get("save") in ({"save": ""}, {b"save": b""})
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_rabbitmq_has_a_user_of_our_own_and_does_not_start_without_a_password() -> None:
    service = COMPOSE["services"]["rabbitmq"]
    assert service["environment"]["RABBITMQ_DEFAULT_USER"] != "guest"
    shell, flag, script = service["entrypoint"]
    ran = subprocess.run(
        [shell, flag, script.replace("$$", "$")],
        env={"PATH": os.environ["PATH"], "RABBITMQ_DEFAULT_PASS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (1, "write RABBITMQ_PASSWORD=... into .env\n")


def test_every_volume_that_is_mounted_exists_in_the_image_for_the_user_that_writes_it() -> None:
    image = (ROOT / "Dockerfile").read_text()
    for folder in ("/keys", "/producer", "/out", "/app/.tokenferry"):
        assert re.search(rf"install -d -o tokenferry .*{folder}\b", image)


class Stage:
    """One folder that stands for every container's file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKENFERRY_")}
        self.replace = {place: f"{folder}{place}" for place in ("/keys", "/producer", "/out", "/data", "/app")}
        for place in ("app", "data", "out"):
            (folder / place).mkdir()
        with (ROOT / "examples" / "onboarding.csv").open() as rows:
            (folder / "data" / "onboarding.csv").write_text("".join(islice(rows, 41)))
        self.configure()

    def configure(self) -> None:
        text = (ROOT / "deploy" / "tokenferry.toml").read_text()
        places = "|".join(map(re.escape, self.replace))
        text = re.sub(rf'(?<=")({places})', lambda found: self.replace[found[0]], text)
        (self.folder / "app" / "tokenferry.toml").write_text(text)

    def command(self, service: str) -> list[str]:
        """What the container would run, with its folders moved below ours, and a free port."""
        words = shlex.split(OURS[service]["command"].replace("--port 12111", "--port 0"))
        if service == "import":  # its /keys is the producer's volume
            self.replace["/keys"] = f"{self.folder}/producer"
            self.configure()
        moved = [re.sub(r"^(/keys|/producer|/out|/data|/app)\b", rf"{self.folder}\1", word) for word in words]
        return [sys.executable, "-m", "tokenferry", *moved]

    def finish(self, service: str, codes: tuple[int, ...] = (0,)) -> None:
        ran = forking.run(self.command(service), env=self.environment, timeout=120)
        assert ran.returncode in codes, ran.stdout + ran.stderr

    def until_healthy(self, service: str) -> None:
        """What the container engine asks every few seconds."""
        how, program, *words = OURS[service]["healthcheck"]["test"]
        assert (how, program) == ("CMD", "tokenferry")
        command = [sys.executable, "-m", "tokenferry", *(f"{self.folder}{w}" if w[0] == "/" else w for w in words)]
        deadline = time.monotonic() + 120
        while (asked := forking.run(command, timeout=120)).returncode:
            assert time.monotonic() < deadline, asked.stdout + asked.stderr
            time.sleep(0.1)

    @contextmanager
    def start(self, service: str, up: str) -> Iterator[str]:
        """Start a service; the line that said it is up."""
        log = self.folder / f"{service}.log"
        with log.open("wb") as out:
            process = forking.start(self.command(service), env=self.environment, stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + 120
            while not (said := [line for line in log.read_text().splitlines() if up in line]):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield said[0]
        finally:
            process.terminate()
            assert process.wait(90) == 0
