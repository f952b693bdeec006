"""What deploy/ says is what runs here: each command, with the files where systemd or Kubernetes would put them."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forking
import pytest
import yaml
from conftest import KeyFolder

from tokenferry.broker.embedded import Embedded
from tokenferry.configuration import load
from tokenferry_worker.engine.supervisor import AFTER_GRACE

ROOT = Path(__file__).parent.parent
SYSTEMD, KUBERNETES = ROOT / "deploy" / "systemd", ROOT / "deploy" / "kubernetes"
ROLES = ("tokenize", "attach", "onboard")
SECRET = "sk_test_deploy"


def unit(role: str) -> dict[str, list[str]]:
    """The settings of a unit; what stands several times, in order."""
    found: dict[str, list[str]] = {}
    for line in (SYSTEMD / f"tokenferry-{role}.service").read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def manifests(role: str) -> tuple[dict[str, Any], dict[str, Any]]:
    deployment, budget = yaml.safe_load_all((KUBERNETES / f"{role}.yaml").read_text())
    return deployment, budget


def pod(role: str) -> dict[str, Any]:
    spec: dict[str, Any] = manifests(role)[0]["spec"]["template"]["spec"]
    return spec


# What is promised in the files


def grace(folder: Path) -> float:
    return load(folder / "tokenferry.toml").worker.grace_seconds + AFTER_GRACE


@pytest.mark.parametrize("role", ROLES)
def test_nobody_kills_a_worker_before_it_could_finish_and_close(role: str) -> None:
    assert int(unit(role)["TimeoutStopSec"][0]) > grace(SYSTEMD)
    assert pod(role)["terminationGracePeriodSeconds"] > grace(KUBERNETES)
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"][role]
    assert int(compose["stop_grace_period"].removesuffix("s")) > grace(ROOT / "deploy")


def test_no_file_of_a_deployment_holds_a_secret() -> None:
    for path in sorted((ROOT / "deploy").rglob("*")):
        if path.is_file():
            text = path.read_text()
            assert not re.search(r"[sp]k_(test|live)_|PRIVATE KEY|whsec_|://[^/\s:]*:[^/\s@]+@", text), path


@pytest.mark.parametrize("role", ROLES)
def test_the_unit_is_locked_in_and_restarted_whatever_happens(role: str) -> None:
    settings = unit(role)
    for name, value in {
        "Type": "notify",
        "Restart": "always",
        "RestartPreventExitStatus": "2",  # wrong configuration: a restart reads the same again
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "LimitCORE": "0",
        "KillMode": "mixed",  # the supervisor is asked; it asks its processes
    }.items():
        assert settings[name] == [value]
    assert "User" in settings
    assert int(settings["WatchdogSec"][0]) > load(SYSTEMD / "tokenferry.toml").worker.watchdog_seconds * 2


@pytest.mark.parametrize("role", ROLES)
def test_the_pod_is_locked_in(role: str) -> None:
    spec = pod(role)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    for container in [*spec["initContainers"], *spec["containers"]]:
        locked = container["securityContext"]
        assert locked["readOnlyRootFilesystem"] is True
        assert locked["allowPrivilegeEscalation"] is False
        assert locked["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} == set(container["resources"])
        for variable in container.get("env", []):
            assert "value" not in variable


@pytest.mark.parametrize("role", ROLES)
def test_a_rollout_and_a_drained_node_leave_a_worker_at_work(role: str) -> None:
    deployment, budget = manifests(role)
    assert deployment["spec"]["replicas"] > budget["spec"]["maxUnavailable"]
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"] == budget["spec"]["selector"] == {"matchLabels": labels}


def test_only_who_opens_envelopes_is_given_the_keys_to_them() -> None:
    assert not any("identities" in line or "worker.pem" in line for line in unit("attach")["LoadCredential"])
    assert {"identities", "worker"}.isdisjoint(volume["name"] for volume in pod("attach")["volumes"])
    assert any(line.startswith("identities:") for line in unit("tokenize")["LoadCredential"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="a look by systemd itself, where it is at hand")
@pytest.mark.parametrize("role", ROLES)
def test_systemd_understands_every_line(role: str, tmp_path: Path) -> None:
    name = f"tokenferry-{role}.service"
    text = (SYSTEMD / name).read_text().replace("/opt/tokenferry/bin/tokenferry", "/bin/true")
    (tmp_path / name).write_text(text)
    said = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / name], capture_output=True, text=True, timeout=60, check=False
    )
    assert name not in said.stderr, said.stderr


# What runs


class Machine:
    """A folder that stands for a machine's, or a container's, file system."""

    def __init__(self, root: Path, valkey: Embedded) -> None:
        self.root = root
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TOKENFERRY_")}
        self.environment = {
            **clean,
            "TOKENFERRY_BROKER__URL": valkey.database(8).redis_url,
            "TOKENFERRY_STORE__URL": valkey.database(9).redis_url,
        }

    def at(self, path: str) -> Path:
        """Where an absolute *path* is here; its folder exists."""
        here = self.root / path.lstrip("/")
        here.parent.mkdir(parents=True, exist_ok=True)
        return here

    def moved(self, text: str, *folders: str) -> str:
        """*text* with these absolute paths in it moved below our root."""
        return re.sub(rf"(?<![\w.])({'|'.join(map(re.escape, folders))})(?=[/\s\"]|$)", rf"{self.root}\1", text)

    def put(self, path: str, content: bytes) -> None:
        here = self.at(path)
        here.write_bytes(content)
        here.chmod(0o400)

    @contextmanager
    def running(self, words: list[str], **more: str) -> Iterator[Path]:
        """Run `tokenferry` with these words; where its log is. At the end it is asked to stop, and must do so well."""
        log = self.root / "log"
        with log.open("wb") as out:
            process = forking.start(
                [sys.executable, "-m", "tokenferry", *words], env={**self.environment, **more}, stdout=out, stderr=out
            )
        try:
            yield log
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, log.read_text()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def until(self, holds: Any, log: Path) -> Any:
        deadline = time.monotonic() + 40
        while not (value := holds()):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        return value


def configuration(folder: Path) -> str:
    """As it stands, but with an endpoint that nobody is: no test talks to the real one."""
    text = (folder / "tokenferry.toml").read_text()
    assert text.count('mode = "test"') == 1
    return text.replace('mode = "test"', 'mode = "test"\nbase_url = "http://127.0.0.1:9"')


@pytest.fixture
def machine(tmp_path: Path, valkey: Embedded) -> Machine:
    return Machine(tmp_path, valkey)


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_starts_with_its_credentials_alone_and_tells_systemd(
    machine: Machine, key_folder: KeyFolder, role: str
) -> None:
    shutil.copytree(key_folder.signers, machine.at("/etc/tokenferry/signers"))
    shutil.copy(key_folder.policy, machine.at("/etc/tokenferry/signers"))
    moved = machine.moved(configuration(SYSTEMD), "/etc/tokenferry", "/var/lib/tokenferry")
    kept = {
        "/etc/tokenferry/tokenferry.toml": [("", moved.encode())],
        "/etc/tokenferry/endpoint-secret-key": [("", SECRET.encode())],
        "/etc/tokenferry/endpoint-publishable-key": [("", b"pk_test_deploy\n")],
        "/etc/tokenferry/keys/worker.pem": [("", key_folder.worker.read_bytes())],
        "/etc/tokenferry/keys/result.pem": [("", key_folder.result.read_bytes())],
        "/etc/tokenferry/keys/content.key": [("", (key_folder.path / "content.key").read_bytes())],
        "/etc/tokenferry/keys/state.key": [("", (key_folder.path / "state.key").read_bytes())],
        "/etc/tokenferry/keys/identities": [(f"_{p.name}", p.read_bytes()) for p in key_folder.identities.iterdir()],
    }
    for line in unit(role)["LoadCredential"]:  # as systemd does it: a folder becomes one credential per file
        name, _, source = line.partition(":")
        for suffix, content in kept[source]:
            machine.put(f"/run/credentials/{name}{suffix}", content)
    credentials = machine.at("/run/credentials")
    program, *words = shlex.split(unit(role)["ExecStart"][0].replace("${CREDENTIALS_DIRECTORY}", str(credentials)))
    assert program == "/opt/tokenferry/bin/tokenferry"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(machine.root / "notify"))
        systemd.settimeout(40)
        with machine.running(words, NOTIFY_SOCKET=str(machine.root / "notify")) as log:
            heard = ""
            while "READY=1" not in heard or "every process works" not in heard:
                heard += systemd.recv(4096).decode() + "\n"
            command = ["-m", "tokenferry", "health", "--config", str(credentials / "tokenferry.toml")]
            health = forking.run([sys.executable, *command], env=machine.environment)
            assert health.returncode == 0, health.stdout + log.read_text()
        assert SECRET not in log.read_text() + heard
        assert "is missing" not in log.read_text()


@pytest.mark.parametrize("role", ROLES)
def test_a_pod_starts_with_copies_of_its_secrets_and_its_probes_are_answered(
    machine: Machine, key_folder: KeyFolder, role: str
) -> None:
    spec = pod(role)
    secrets = {
        "tokenferry-endpoint": {"secret-key": SECRET.encode(), "publishable-key": b"pk_test_deploy"},
        "tokenferry-worker": {"worker.pem": key_folder.worker.read_bytes()},
        "tokenferry-results": {
            "result.pem": key_folder.result.read_bytes(),
            "state.key": (key_folder.path / "state.key").read_bytes(),
        },
        "tokenferry-identities": {
            path.name: path.read_bytes() for path in (*key_folder.identities.iterdir(), key_folder.path / "content.key")
        },
    }
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    init, container = spec["initContainers"][0], spec["containers"][0]
    for mount in init["volumeMounts"]:
        for name, content in secrets.get(volumes[mount["name"]].get("secret", {}).get("secretName", ""), {}).items():
            machine.put(f"{mount['mountPath']}/{name}", content)
            machine.at(f"{mount['mountPath']}/{name}").chmod(0o440)
    machine.at("/keys").mkdir()
    shell, flags, script = init["command"]
    subprocess.run([shell, flags, machine.moved(script, "/secrets", "/keys")], check=True, timeout=30)
    shutil.copytree(key_folder.signers, machine.at("/signers"))
    shutil.copy(key_folder.policy, machine.at("/signers"))
    toml = machine.moved(configuration(KUBERNETES), "/keys", "/signers", "/tmp/tokenferry")
    (port,) = [one["containerPort"] for one in container["ports"] if one["name"] == "health"]
    assert f'health = "0.0.0.0:{port}"' in toml
    machine.put("/etc/tokenferry/tokenferry.toml", toml.replace(f"0.0.0.0:{port}", "127.0.0.1:0").encode())
    words = [machine.moved(word, "/etc/tokenferry") for word in container["args"]]
    with machine.running(words) as log:
        said = machine.until(lambda: re.search(r"/live and /ready on port (\d+)", log.read_text()), log)
        paths = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
        assert {probe["port"] for probe in paths.values()} == {"health"}
        for probe in paths.values():
            machine.until(lambda path=probe["path"]: _status(int(said[1]), path) == 200, log)
    assert SECRET not in log.read_text()
    assert "is missing" not in log.read_text()
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    public = {"secretName": "tokenferry-signers", "defaultMode": 0o440}  # a secret, so that few may change it
    assert all(volumes[name].get("secret", public) == public for name in mounted)  # of the others only the copies


def _status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()
