"""`tokenferry doctor`: what is wrong is named with its place and its cure, before the first request finds it out."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import amqp
import httpx
import pytest
import redis
from click.testing import CliRunner, Result
from e2e.brokers import REDIS, Embedded, RabbitMQ, needs
from result_signing import write_result_key

from tokenferry.addresses import masked
from tokenferry.broker import connecting
from tokenferry.broker.embedded import Embedded as Server
from tokenferry.cli import main
from tokenferry.configuration import InvalidConfiguration, Platform, load
from tokenferry_emulator.testing import EmulatorProcess
from tokenferry_worker import wiring
from tokenferry_worker.doctor import endpoint, preflight
from tokenferry_worker.doctor.deadline import within
from tokenferry_worker.doctor.verdicts import Check, ok
from tokenferry_worker.provider.client import ApiKeys, StripeClient
from tokenferry_worker.provider.over_httpx import HttpxExchange
from tokenferry_worker.provider.way import DIRECT

CANARY = "canary0000000000"
DATABASE = 11
"""Of the private Valkey."""
KINDS = {"card", "bank_account", "pii", "account", "person", "cvc_update"}


@pytest.fixture(scope="session")
def emulator() -> Iterator[EmulatorProcess]:
    with EmulatorProcess() as process:
        yield process


@dataclass(frozen=True)
class Found:
    """What the doctor said and how it ended."""

    exit_code: int
    checks: list[dict[str, Any]]
    settings: dict[str, Any]

    def the(self, name: str, subject: str | None = None) -> dict[str, Any]:
        """The one check of that name."""
        (check,) = (c for c in self.checks if c["name"] == name and subject in (None, c["subject"]))
        return check

    def of(self, state: str) -> set[str]:
        return {check["name"] for check in self.checks if check["state"] == state}


class Practice:
    """A folder with keys and a configuration, on a private Valkey and an emulator unless told otherwise."""

    def __init__(self, folder: Path, server: Server, url: str) -> None:
        self.folder = folder
        self.source = folder / "tokenferry.toml"
        self.mode = 0o600
        self.endpoint = url
        database = server.database(DATABASE).redis_url
        self.broker = self.store = database
        self.platforms = self.platform("main")
        assert CliRunner().invoke(main, ["keys", "generate", "--out", str(folder / "keys")]).exit_code == 0

    def platform(self, name: str, *, mode: str = "test", url: str | None = None, more: str = "") -> str:
        return (
            f'[platforms.{name}]\nmode = "{mode}"\nbase_url = "{url or self.endpoint}"\n'
            f'secret_key = {{ env = "THE_KEY" }}\n{more}\n'
        )

    def write(self) -> None:
        self.source.write_text(
            f'[broker]\nurl = "{self.broker}"\n[store]\nurl = "{self.store}"\nprefix = "test-doctor"\n{self.platforms}'
        )
        self.source.chmod(self.mode)

    def call(self, *options: str) -> Result:
        self.write()
        return CliRunner().invoke(main, ["doctor", "--config", str(self.source), *options])

    def examine(self, *options: str) -> Found:
        done = self.call(*options, "--json")
        assert done.exit_code in (0, 1), done.output
        told = json.loads(done.stdout)
        found = Found(done.exit_code, told["checks"], told["settings"])
        assert told["ok"] == (not found.of("failed")) == (done.exit_code == 0)
        return found


@pytest.fixture
def practice(
    tmp_path: Path, valkey: Server, emulator: EmulatorProcess, environment: dict[str, str]
) -> Iterator[Practice]:
    environment["THE_KEY"] = f"sk_test_{CANARY}"
    yield Practice(tmp_path, valkey, emulator.url)
    with redis.Redis.from_url(valkey.database(DATABASE).redis_url) as client:
        client.flushdb()


class TestAHealthyHouse:
    def test_nothing_fails_and_every_subject_was_looked_at(self, practice: Practice) -> None:
        found = practice.examine()
        assert found.exit_code == 0
        assert {check["state"] for check in found.checks} == {"ok"}
        areas = {check["name"].partition(" ")[0] for check in found.checks}
        assert areas == {"configuration", "keys", "broker", "store", "endpoint", "limits"}
        assert {f"endpoint {kind}" for kind in KINDS} | {"endpoint connect"} <= found.of("ok")

    def test_no_token_is_made_to_find_that_out(self, practice: Practice) -> None:
        with EmulatorProcess() as fresh:
            practice.platforms = practice.platform("main", url=fresh.url)
            assert practice.examine().exit_code == 0
            ledger = httpx.get(f"{fresh.url}/_ledger").json()
        assert (ledger["tokens_created"], ledger["objects"]) == (0, {})
        assert ledger["calls"]["total"] == 8

    def test_nothing_is_left_in_broker_and_store(self, practice: Practice, valkey: Server) -> None:
        practice.examine()
        with redis.Redis.from_url(valkey.database(DATABASE).redis_url) as client:
            assert [key for key in client.scan_iter() if not key.startswith(b"_kombu")] == []

    @pytest.mark.parametrize(
        ("role", "queues"),
        [
            ("tokenize", {"tokenize.realtime.main", "tokenize.bulk.main", "quarantine", "dead-letters"}),
            ("attach", {"attach.realtime.main", "attach.bulk.main", "quarantine", "dead-letters"}),
        ],
    )
    def test_a_role_is_asked_only_what_it_needs(self, practice: Practice, role: str, queues: set[str]) -> None:
        found = practice.examine("--role", role)
        assert {check["subject"] for check in found.checks if check["name"] == "broker queue"} == queues
        asked = {kind for kind in KINDS if f"endpoint {kind}" in found.of("ok")}
        assert asked == (KINDS if role == "tokenize" else set())
        assert ("endpoint connect" in found.of("ok")) == (role == "attach")
        assert ("keys identities" in found.of("ok")) == (role == "tokenize")

    def test_an_embedded_server_is_started_and_examined(self, practice: Practice) -> None:
        house = Embedded(practice.folder / ".tokenferry")
        try:
            practice.broker = practice.store = "embedded"
            found = practice.examine()
            assert found.exit_code == 0
            assert found.the("broker persistence")["says"] == "appendonly is on"
        finally:
            house.close()

    def test_a_person_reads_marks_settings_and_a_summary(self, practice: Practice) -> None:
        shown = practice.call().stdout
        assert "✓  broker connection" in shown
        assert "settings in force" in shown
        assert "env THE_KEY" in shown
        assert ", 0 warnings, 0 failed" in shown.splitlines()[-1]


class TestTheEndpoint:
    def test_raw_card_data_refused_fails_the_card_and_nothing_else(
        self, practice: Practice, environment: dict[str, str]
    ) -> None:
        environment["THE_KEY"] = f"sk_test_noraw_{CANARY}"
        found = practice.examine()
        assert found.of("failed") == {"endpoint card"}
        assert "may not send card numbers" in found.the("endpoint card")["says"]
        assert "raw card data" in found.the("endpoint card")["do"]

    def test_a_platform_whose_accounts_are_refused_is_pointed_to_support(self, practice: Practice) -> None:
        with EmulatorProcess("--v1-accounts", "off") as new:
            practice.platforms = practice.platform("main", url=new.url)
            connect = practice.examine("--role", "attach").the("endpoint connect")
        assert "v1 accounts" in connect["says"]
        assert "support" in connect["do"]

    def test_an_endpoint_that_takes_no_cards_from_anybody(self, practice: Practice) -> None:
        with EmulatorProcess("--raw-cards", "off") as strict:
            practice.platforms = practice.platform("main", url=strict.url)
            assert practice.examine().of("failed") == {"endpoint card"}

    @pytest.mark.parametrize(("key", "word"), [("invalid", "unauthorized"), ("expired", "api_key_expired")])
    def test_a_key_that_is_not_accepted_ends_the_questions_there_and_nowhere_else(
        self, practice: Practice, environment: dict[str, str], key: str, word: str
    ) -> None:
        environment["THE_KEY"] = f"sk_test_{key}_{CANARY}"
        found = practice.examine()
        assert found.of("failed") == {"endpoint secret-key"}
        assert word in found.the("endpoint secret-key")["says"]
        assert {"store script", "broker queue", "keys identities"} <= found.of("ok")
        assert not {f"endpoint {kind}" for kind in KINDS} & {check["name"] for check in found.checks}

    def test_live_without_a_publishable_key_cannot_make_account_and_person_tokens(
        self, practice: Practice, environment: dict[str, str]
    ) -> None:
        environment["THE_KEY"] = f"sk_live_{CANARY}"
        practice.platforms = practice.platform("main", mode="live", url="https://127.0.0.1:1")
        found = practice.examine()
        assert found.of("failed") == {"endpoint connection", "endpoint account", "endpoint person"}
        assert 'publishable_key = { env = "NAME" }' in found.the("endpoint account")["do"]
        assert practice.examine("--role", "attach").of("failed") == {"endpoint connection"}

    @pytest.mark.parametrize(
        ("platform", "words"),
        [
            ({"mode": "live", "url": "https://endpoint.invalid"}, 'is not a live key, but mode = "live"'),
            ({"more": 'publishable_key = { env = "NOT_SET" }'}, "the environment variable NOT_SET is not set"),
            ({"more": 'publishable_key = { env = "THE_KEY" }'}, "it looks like a secret key"),
        ],
    )
    def test_keys_of_the_wrong_kind_or_mode_are_not_even_sent(
        self, practice: Practice, platform: dict[str, str], words: str
    ) -> None:
        practice.platforms = practice.platform("main", **platform)
        found = practice.examine("--role", "attach")
        assert found.of("failed") == {"endpoint keys"}
        assert words in found.the("endpoint keys")["says"]

    def test_each_platform_is_judged_on_its_own_and_one_may_be_chosen(self, practice: Practice) -> None:
        practice.platforms += practice.platform("away", url="http://127.0.0.1:1")
        found = practice.examine()
        assert found.the("endpoint connection", "main")["state"] == "ok"
        assert found.the("endpoint connection", "away")["state"] == "failed"
        assert practice.examine("--platform", "main").exit_code == 0

    def test_without_a_platform_there_is_nothing_to_do(self, practice: Practice) -> None:
        practice.platforms = ""
        assert practice.examine().of("failed") == {"endpoint keys"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def judged(
    answer: Callable[[httpx.Request], httpx.Response],
    *,
    role: Any = "all",
    mode: Any = "test",
    url: str = "https://endpoint.invalid",
) -> dict[str, Check]:
    """The checks of an endpoint that answers in a way the emulator does not."""
    platform = Platform.model_construct(mode=mode, base_url=url)
    exchange = HttpxExchange(
        url, DIRECT, connections=8, read_timeout=5, connect_timeout=5, transport=httpx.MockTransport(answer)
    )
    client = StripeClient(platform, ApiKeys(secret=f"sk_{mode}_{CANARY}", publishable=None), exchange)
    try:
        return {check.name: check for check in await endpoint.ask(client, "main", platform, role)}
    finally:
        await client.aclose()


class StrangeEndpoint:
    """Knows its key, tells the time, and answers every POST alike."""

    def __init__(self, status: int = 400, ahead: float = 0.0, **error: str) -> None:
        self.status, self.ahead, self.error = status, ahead, error

    def __call__(self, request: httpx.Request) -> httpx.Response:
        date = {"Date": formatdate(time.time() + self.ahead, usegmt=True)}
        if request.method == "GET":
            return httpx.Response(404, headers=date, json={"error": {"type": "invalid_request_error", "param": "id"}})
        if self.status == 200:
            return httpx.Response(200, json={"id": "tok_1", "object": "token", "type": "pii"})
        return httpx.Response(self.status, json={"error": {"type": "invalid_request_error", **self.error}})


@pytest.mark.anyio
class TestStrangeAnswers:
    async def test_an_account_without_connect_is_refused_as_a_whole(self) -> None:
        found = await judged(StrangeEndpoint(), role="attach")
        assert found["endpoint connect"].state == "warning"
        assert "not to be enabled" in found["endpoint connect"].says

    @pytest.mark.parametrize("status", [400, 403])
    async def test_a_new_platform_is_told_what_v1_accounts_are_and_whom_to_ask(self, status: int) -> None:
        message = "Your platform cannot use this. Create accounts with POST /v2/core/accounts."
        found = await judged(StrangeEndpoint(status, message=message), role="attach")
        assert found["endpoint connect"].state == "warning"
        assert "v1 accounts" in found["endpoint connect"].says
        assert "support" in (found["endpoint connect"].do or "")

    async def test_a_restricted_key_is_told_which_kinds_it_lacks(self) -> None:
        found = await judged(StrangeEndpoint(403), role="tokenize")
        assert {found[f"endpoint {kind}"].state for kind in KINDS} == {"failed"}
        assert "permission" in (found["endpoint pii"].do or "")

    @pytest.mark.parametrize("status", [429, 500, 503])
    async def test_who_gets_no_answer_knows_nothing_and_says_so(self, status: int) -> None:
        found = await judged(StrangeEndpoint(status))
        assert {found[f"endpoint {kind}"].state for kind in KINDS} == {"warning"}
        assert f"{status}" in found["endpoint card"].says

    async def test_a_token_nobody_should_have_made_is_suspicious(self) -> None:
        assert (await judged(StrangeEndpoint(200)))["endpoint pii"].state == "warning"

    @pytest.mark.parametrize(
        ("ahead", "state", "words"), [(600, "failed", "ahead of"), (-600, "failed", "behind"), (20, "warning", "ahead")]
    )
    async def test_a_clock_that_differs_is_told_by_how_much(self, ahead: float, state: str, words: str) -> None:
        clock = (await judged(StrangeEndpoint(ahead=ahead, param="x")))["endpoint clock"]
        assert clock.state == state
        assert words in clock.says

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (httpx.Response(302, headers={"Location": "https://elsewhere.invalid"}), "redirects"),
            (httpx.Response(404, text="<html>not here</html>"), "does not answer like Stripe (404)"),
            (httpx.Response(404, json={"error": {"type": "invalid_request_error"}}), "does not answer like Stripe"),
            (httpx.Response(404, json={"detail": "Not Found"}), "does not answer like Stripe"),
            (httpx.Response(404, text=""), "does not answer like Stripe"),
            (httpx.Response(200, text="<!doctype html><title>Sign in</title>"), "does not answer like Stripe (200)"),
            (httpx.Response(403, text="<html>blocked</html>"), "does not answer like Stripe (403)"),
            (httpx.Response(200, text="{}"), "is no token endpoint"),
        ],
    )
    async def test_what_is_no_token_endpoint_is_recognized(self, answer: httpx.Response, words: str) -> None:
        found = await judged(lambda request: answer)
        assert found["endpoint connection"].state == "failed"
        assert words in found["endpoint connection"].says

    async def test_an_address_with_a_path_too_much_is_told_what_to_leave_out(self) -> None:
        refusal = {"type": "invalid_request_error", "message": "Unrecognized request URL (GET: /v1/v1/tokens/x)."}
        answer = httpx.Response(404, json={"error": refusal})
        found = (await judged(lambda request: answer, url="https://endpoint.invalid/v1"))["endpoint connection"]
        assert (found.state, found.do) == ("failed", "[platforms.main] base_url ends in /v1; leave it out")

    async def test_a_proxy_that_lets_questions_pass_and_no_call_is_recognized(self) -> None:
        def answer(request: httpx.Request) -> httpx.Response:
            if request.method == "GET":
                return httpx.Response(404, json={"error": {"type": "invalid_request_error", "param": "id"}})
            return httpx.Response(200, text="<html>Uploads are not allowed here.</html>")

        found = await judged(answer)
        assert {found[f"endpoint {kind}"].state for kind in (*KINDS, "connect")} == {"failed"}
        assert "proxy" in (found["endpoint card"].do or "")

    async def test_a_live_publishable_key_that_is_missing_costs_two_kinds_and_no_call(self) -> None:
        found = await judged(StrangeEndpoint(param="x"), mode="live", role="tokenize")
        assert {name for name, check in found.items() if check.state == "failed"} == {
            "endpoint account",
            "endpoint person",
        }


class TestKeys:
    def test_a_private_key_that_others_can_read(self, practice: Practice) -> None:
        (identity,) = (practice.folder / "keys" / "identities").glob("*.pem")
        identity.chmod(0o644)
        found = practice.examine()
        assert found.of("failed") == {"keys identities"}
        assert f"chmod 600 {identity}" in found.the("keys identities")["do"]

    def test_a_recipient_that_nobody_here_can_open_for(self, practice: Practice) -> None:
        for identity in (practice.folder / "keys" / "identities").glob("*.pem"):
            identity.rename(practice.folder / identity.name)
        others = practice.folder / "others"
        CliRunner().invoke(main, ["keys", "generate", "--out", str(others)])
        for identity in (others / "identities").glob("*.pem"):
            identity.rename(practice.folder / "keys" / "identities" / identity.name)
        found = practice.examine()
        assert found.of("failed") == {"keys recipient"}
        assert "no identity here opens" in found.the("keys recipient")["says"]

    def test_a_worker_whose_own_signature_would_be_refused(self, practice: Practice) -> None:
        for signer in (practice.folder / "keys" / "signers").glob("worker-*.pem"):
            signer.unlink()
        found = practice.examine()
        assert found.of("failed") == {"keys worker"}
        assert "not among the signers" in found.the("keys worker")["says"]

    def test_a_worker_does_not_need_what_producers_have(self, practice: Practice) -> None:
        (practice.folder / "keys" / "recipient.pem").unlink()
        (practice.folder / "keys" / "producer.pem").unlink()
        assert practice.examine().exit_code == 0

    def test_an_attach_worker_needs_the_signers_only(self, practice: Practice) -> None:
        for name in ("recipient.pem", "producer.pem", "worker.pem"):
            (practice.folder / "keys" / name).unlink()
        shutil.rmtree(practice.folder / "keys" / "result-signers")
        for identity in (practice.folder / "keys" / "identities").glob("*.pem"):
            identity.unlink()
        assert practice.examine("--role", "attach").exit_code == 0
        assert practice.examine().of("failed") == {"keys identities", "keys worker"}

    def test_results_that_a_worker_here_signs_and_a_reader_here_can_verify(self, practice: Practice) -> None:
        found = practice.examine("--role", "attach")
        assert "signs its results as k" in found.the("keys results")["says"]
        assert "1 key whose results" in found.the("keys result-signers")["says"]

    def test_a_worker_without_the_key_of_results_does_not_sign_them(self, practice: Practice) -> None:
        (practice.folder / "keys" / "result.pem").unlink()
        found = practice.examine()
        assert found.of("warning") == {"keys results"}
        assert "does not sign results" in found.the("keys results")["says"]
        assert "keys generate --if-missing" in found.the("keys results")["do"]

    def test_a_reader_that_does_not_know_the_key_of_the_worker_beside_it(self, practice: Practice) -> None:
        for key in (practice.folder / "keys" / "result-signers").iterdir():
            key.unlink()
        write_result_key(practice.folder / "keys", "another")
        found = practice.examine()
        assert found.of("failed") == {"keys result-signers"}
        assert "refuses what a worker here signs" in found.the("keys result-signers")["says"]

    def test_a_key_of_results_that_others_can_read(self, practice: Practice) -> None:
        (practice.folder / "keys" / "result.pem").chmod(0o644)
        assert practice.examine().of("failed") == {"keys results"}

    def test_a_reader_that_believes_unsigned_results(self, practice: Practice) -> None:
        practice.platforms += "[producer]\nenvelope = 1\n"
        found = practice.examine()
        assert found.of("warning") == {"keys unsigned results"}
        assert found.settings["producer"] == {"envelope": 1, "group": None}

    def test_folders_and_files_that_others_can_change(self, practice: Practice) -> None:
        (practice.folder / "keys" / "signers").chmod(0o777)
        (practice.folder / "keys" / "result-signers").chmod(0o777)
        (practice.folder / "keys" / "identities").chmod(0o755)
        practice.mode = 0o666
        found = practice.examine()
        assert found.exit_code == 0
        assert found.of("warning") == {"keys folder", "configuration file"}

    def test_a_password_in_a_file_that_others_can_read(self, practice: Practice) -> None:
        practice.mode = 0o644
        found = practice.examine()
        assert found.of("warning") == {"configuration file"}
        assert f"chmod 600 {practice.source}" in found.the("configuration file")["do"]


class TestBrokerAndStore:
    def test_everything_is_looked_at_though_neither_is_there(self, practice: Practice) -> None:
        practice.broker = practice.store = f"redis://:{CANARY}@127.0.0.1:1/0"
        found = practice.examine()
        assert found.of("failed") == {"broker connection", "store connection"}
        assert "Connection refused" in found.the("broker connection")["says"]
        assert {"endpoint card", "keys identities", "limits budgets"} <= found.of("ok")

    def test_a_server_that_never_answers_is_given_up_on(self, practice: Practice) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            practice.broker = f"amqp://127.0.0.1:{silent.getsockname()[1]}//"
            practice.store = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
            practice.write()
            configuration = load(practice.source)
            began = time.monotonic()
            checks = asyncio.run(preflight.examine(configuration, "attach", practice.source, seconds=0.5))
            assert time.monotonic() - began < 10.0
        failed = {check.name: check.says for check in checks if check.state == "failed"}
        assert failed.keys() == {"broker connection", "store connection"}
        assert "0.5 s" in failed["store connection"]

    @pytest.mark.parametrize("url", ["kafka://127.0.0.1", "redis://127.0.0.1:port"])
    def test_an_address_that_is_none_is_said_before_anything_is_looked_at(self, practice: Practice, url: str) -> None:
        practice.broker = practice.store = url
        done = practice.call()
        assert done.exit_code == 2
        assert "[broker] url: " in done.stderr
        assert "[store] url: " in done.stderr

    def test_a_password_that_is_refused(self, practice: Practice, valkey: Server) -> None:
        practice.store = valkey.redis_url.replace(valkey.password, CANARY)
        found = practice.examine()
        assert found.the("store connection")["says"] == "refuses the user name or password"

    def test_what_a_server_does_not_tell_is_unknown_and_no_failure(self, practice: Practice, valkey: Server) -> None:
        with redis.Redis.from_url(valkey.redis_url) as client:
            client.execute_command("ACL", "SETUSER", "shy", "on", f">{CANARY}", "~*", "&*", "+@all", "-info", "-config")
            practice.broker = practice.store = valkey.database(DATABASE).redis_url.replace(
                f":{valkey.password}", f"shy:{CANARY}"
            )
            try:
                found = practice.examine()
            finally:
                client.execute_command("ACL", "DELUSER", "shy")
        unknown = {"version", "eviction"}
        assert found.of("warning") == {
            "broker persistence",
            *(f"{area} {subject}" for area in ("broker", "store") for subject in unknown),
        }
        assert found.exit_code == 0

    def test_a_server_that_may_throw_keys_away(self, practice: Practice, valkey: Server) -> None:
        with redis.Redis.from_url(valkey.redis_url) as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
            try:
                found = practice.examine()
            finally:
                client.config_set("maxmemory-policy", "noeviction")
        assert found.of("warning") == {"broker eviction", "store eviction"}
        assert found.the("store eviction")["do"] == "set `maxmemory-policy noeviction`"

    def test_waiting_messages_are_counted_and_leftovers_are_worth_a_word(
        self, practice: Practice, valkey: Server
    ) -> None:
        with redis.Redis.from_url(valkey.database(DATABASE).redis_url) as client:
            client.rpush("tokenize.bulk.main", "one", "two")
            client.rpush("dead-letters", "a letter")
            client.set("attach.bulk.main", "not a list")
        found = practice.examine()
        assert found.the("broker queue", "tokenize.bulk.main")["says"] == "2 messages waiting"
        assert found.the("broker queue", "tokenize.bulk.main")["state"] == "ok"
        assert found.the("broker queue", "dead-letters")["state"] == "warning"
        assert found.the("broker queue", "attach.bulk.main")["state"] == "failed"

    @pytest.mark.foreign
    def test_a_redis_of_this_machine_is_told_what_it_lacks(self, practice: Practice) -> None:
        needs(REDIS, "Redis")
        practice.broker = practice.store = f"redis://{REDIS[0]}:{REDIS[1]}/10"
        with redis.Redis(*REDIS) as client:
            keeps = client.info("persistence")["aof_enabled"]
        found = practice.examine()
        assert found.the("broker version")["says"].startswith(("Redis ", "Valkey "))
        assert found.the("broker persistence")["state"] == ("ok" if keeps else "warning")
        assert found.the("store script")["state"] == "ok"


@pytest.mark.parametrize(
    "command", [("doctor",), ("worker",), ("circuits",), ("dead-letters", "list"), ("results", "r")]
)
def test_a_base_url_that_ends_in_v1_is_refused_by_every_command_in_the_same_words(
    practice: Practice, command: tuple[str, ...]
) -> None:
    practice.platforms = practice.platform("main", url=f"{practice.endpoint}/v1/")
    practice.call()
    answer = CliRunner().invoke(main, [*command, "--config", str(practice.source)])
    reason = "[platforms.main] base_url: ends in /v1, which every call adds by itself; leave /v1 out"
    assert answer.exit_code == 2
    assert f"{practice.source}: {reason}" in answer.output


class TestAProducer:
    """`--role producer`: a machine that only sends."""

    def test_it_needs_keys_and_a_broker_and_neither_store_nor_endpoint(
        self, practice: Practice, environment: dict[str, str]
    ) -> None:
        del environment["THE_KEY"]
        for path in (practice.folder / "keys" / "identities").glob("*.pem"):
            path.unlink()
        practice.store = f"redis://:{CANARY}@127.0.0.1:1/0"
        found = practice.examine("--role", "producer")
        assert found.exit_code == 0
        assert {check["state"] for check in found.checks} == {"ok"}
        areas = {check["name"].partition(" ")[0] for check in found.checks}
        assert areas == {"configuration", "keys", "broker"}
        queues = {check["subject"] for check in found.checks if check["name"] == "broker queue"}
        assert queues == {f"{task}.{lane}.main" for task in ("tokenize", "attach") for lane in ("realtime", "bulk")} | {
            "onboard.main"
        }

    def test_what_it_lacks_is_named_and_what_it_should_not_have_too(self, practice: Practice) -> None:
        for name in ("recipient", "producer"):
            (practice.folder / "keys" / f"{name}.pem").unlink()
        practice.platforms = ""
        practice.broker = f"redis://:{CANARY}@127.0.0.1:1/0"
        found = practice.examine("--role", "producer")
        assert found.of("failed") == {
            "configuration platforms",
            "keys recipient",
            "keys producer",
            "broker connection",
        }
        assert found.of("warning") == {"keys identities"}

    def test_a_user_with_the_rights_of_a_producer_is_enough(self, practice: Practice, valkey: Server) -> None:
        rights = "-@all +lpush +llen +@transaction +hello +auth +ping +select +client|setname +client|setinfo"
        keys = ("~tokenize.*", "~attach.*", "~onboard.*")
        with redis.Redis.from_url(valkey.redis_url) as client:
            client.execute_command("ACL", "SETUSER", "sender", "on", f">{CANARY}", "resetkeys", *keys, *rights.split())
            practice.broker = valkey.database(DATABASE).redis_url.replace(f":{valkey.password}", f"sender:{CANARY}")
            try:
                found = practice.examine("--role", "producer")
            finally:
                client.execute_command("ACL", "DELUSER", "sender")
        assert found.of("failed") == set()

    @pytest.mark.foreign
    def test_a_queue_that_no_worker_has_declared_yet_is_worth_a_word(self, practice: Practice, tmp_path: Path) -> None:
        rabbit = RabbitMQ(tmp_path / "data")
        try:
            practice.broker = rabbit.url
            found = practice.examine("--role", "producer")
            assert found.exit_code == 0
            assert "start a worker" in found.the("broker queue", "tokenize.bulk.main")["do"]
            assert rabbit.queues() == {}
        finally:
            rabbit.close()


class TestRabbitMQ:
    @pytest.fixture
    def rabbit(self, tmp_path: Path) -> Iterator[RabbitMQ]:
        broker = RabbitMQ(tmp_path / "data")
        yield broker
        broker.close()

    def test_a_queue_of_another_type_is_named_with_its_cure_and_nothing_is_declared(
        self, practice: Practice, rabbit: RabbitMQ
    ) -> None:
        with rabbit.channel() as channel:
            channel.queue_declare("tokenize.bulk.main", durable=True, auto_delete=False)
            arguments = connecting.quorum_arguments("dead-letters")
            channel.queue_declare("dead-letters", durable=True, auto_delete=False, arguments=arguments)
            channel.confirm_select()
            channel.basic_publish_confirm(amqp.Message(b"a letter"), routing_key="dead-letters")
        practice.broker = rabbit.url
        found = practice.examine()
        assert found.of("failed") == {"broker queue"}
        wrong = found.the("broker queue", "tokenize.bulk.main")
        assert wrong["state"] == "failed"
        assert "x-queue-type: classic" in wrong["says"]
        assert "delete_queue tokenize.bulk.main" in wrong["do"]
        assert found.the("broker queue", "dead-letters")["state"] == "warning"
        assert "is not there yet" in found.the("broker queue", "tokenize.realtime.main")["says"]
        assert set(rabbit.queues()) == {"tokenize.bulk.main", "dead-letters"}

    @pytest.mark.parametrize("part", ["password", "vhost"])
    def test_who_is_not_let_in_learns_why(self, practice: Practice, rabbit: RabbitMQ, part: str) -> None:
        wrong = ("guest:guest@", f"guest:{CANARY}@") if part == "password" else (rabbit.vhost, "not-there")
        practice.broker = rabbit.url.replace(*wrong)
        found = practice.examine("--role", "attach")
        assert found.of("failed") == {"broker connection"}
        assert part in found.the("broker connection")["says"].replace("virtual host", "vhost")


class TestTargets:
    """A signer may name targets that Stripe will remove."""

    def granted(self, practice: Practice, *targets: str) -> Found:
        path = practice.folder / "keys" / "policy.toml"
        before, heading, after = path.read_text().partition('targets]]\nto = "*"')
        assert heading
        table = before[before.rindex("[[") :] + "targets]]"
        others = "".join(f'\n{table}\nto = "{to}"\n' for to in targets[1:])
        path.write_text(f'{before}targets]]\nto = "{targets[0]}"\n{others}{after}')
        return practice.examine()

    @pytest.mark.parametrize("targets", [("charge",), ("charge", "customer_create", "charge")])
    def test_a_signer_that_is_granted_charges_by_name_is_warned_of(
        self, practice: Practice, targets: tuple[str, ...]
    ) -> None:
        found = self.granted(practice, *targets)
        assert found.of("warning") == {"keys targets"}
        assert "deprecated" in found.the("keys targets")["says"]
        assert "payment_intent" in found.the("keys targets")["do"]

    @pytest.mark.parametrize("targets", [("*",), ("payment_intent", "customer_create")])
    def test_everything_and_today_s_targets_are_no_news(self, practice: Practice, targets: tuple[str, ...]) -> None:
        assert self.granted(practice, *targets).of("warning") == set()


class TestProxy:
    """Which way leads to Stripe. The tests of the way itself: test_way.py."""

    def test_a_proxy_is_named_without_its_password_and_a_failure_names_it_too(
        self, practice: Practice, environment: dict[str, str]
    ) -> None:
        environment["HTTPS_PROXY"] = f"http://ada:{CANARY}@127.0.0.1:1"
        practice.platforms = practice.platform("main", url="https://stripe.example")
        said = practice.call().output
        assert "http://127.0.0.1:1 (HTTPS_PROXY)" in said
        assert "the proxy does not answer" in said
        assert CANARY not in said

    def test_an_emulator_on_this_machine_needs_no_proxy_and_nothing_is_said(
        self, practice: Practice, environment: dict[str, str]
    ) -> None:
        environment["HTTPS_PROXY"] = "http://127.0.0.1:1"
        found = practice.examine()
        assert (found.exit_code, [c for c in found.checks if c["name"] == "endpoint proxy"]) == (0, [])

    def test_a_proxy_that_cannot_be_meant_fails_the_doctor_and_the_worker(
        self, practice: Practice, environment: dict[str, str]
    ) -> None:
        environment["HTTPS_PROXY"] = f"socks5://ada:{CANARY}@127.0.0.1:1"
        practice.platforms = practice.platform("main", url="https://stripe.example")
        found = practice.examine()
        assert "HTTPS_PROXY: begins with something else" in found.the("endpoint proxy")["says"]
        with pytest.raises(InvalidConfiguration, match="HTTPS_PROXY"):
            wiring.check(load(practice.source), "all")


class TestLimits:
    def test_more_than_is_documented_may_be_right_and_is_said(self, practice: Practice) -> None:
        practice.platforms += "[platforms.main.limits]\nendpoint_per_second = 40\nglobal_per_second = 20\n"
        found = practice.examine()
        assert found.exit_code == 0
        budgets = found.the("limits budgets")
        assert budgets["state"] == "warning"
        assert budgets["says"].startswith("in all 20/s, each operation 40/s, each resource 40/s")
        assert "make sure the account was granted that" in budgets["do"]

    @pytest.mark.parametrize(
        ("lines", "rates", "next_step"),
        [
            ("", "in all 25/s, each operation 25/s, each resource 25/s, account creation 5/s", 'by = "operation"'),
            ('by = "resource"', "in all 25/s, each resource 25/s, account creation 5/s", 'by = "both"'),
            ('by = "operation"', "in all 25/s, each operation 25/s, account creation 5/s", "as Stripe does"),
            (
                'by = "operation"\noperations = { "POST /v1/customers" = 10 }',
                "in all 25/s, each operation 25/s, POST /v1/customers 10/s, account creation 5/s",
                "as Stripe does",
            ),
        ],
    )
    def test_what_is_counted_is_said_with_the_next_step(
        self, practice: Practice, lines: str, rates: str, next_step: str
    ) -> None:
        practice.platforms += f"[platforms.main.limits]\n{lines}\n"
        budgets = practice.examine().the("limits budgets")
        assert budgets["state"] == "ok"
        assert budgets["says"].startswith(f"{rates}; calls are counted by")
        assert next_step in budgets["says"]

    @pytest.mark.parametrize("line", ["endpoints = { charges = 5 }", 'in_flight = { "POST /v1/charges" = 2 }'])
    def test_limits_of_charges_say_that_somebody_uses_what_stripe_will_remove(
        self, practice: Practice, line: str
    ) -> None:
        practice.platforms += f"[platforms.main.limits]\n{line}\n"
        found = practice.examine()
        assert found.of("warning") == {"limits targets"}
        assert "deprecated" in found.the("limits targets")["says"]
        assert "payment_intent" in found.the("limits targets")["do"]

    def test_two_platforms_of_one_account_would_spend_its_budget_twice(self, practice: Practice) -> None:
        practice.platforms += practice.platform("twin")
        assert practice.examine().the("limits account")["subject"] == "main, twin"


class TestWrongUsage:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--platform", "absent"), "platform 'absent' is not configured"),
            (("--role", "cook"), "--role"),
            (("--config", "/absent/tokenferry.toml"), "cannot be read"),
        ],
    )
    def test_what_cannot_be_examined_ends_with_2(
        self, practice: Practice, options: tuple[str, ...], words: str
    ) -> None:
        done = practice.call(*options)
        assert done.exit_code == 2
        assert words in done.output

    def test_a_file_that_is_not_toml_ends_with_2(self, practice: Practice) -> None:
        practice.platforms = f"this is {CANARY}"
        done = practice.call("--json")
        assert done.exit_code == 2
        assert CANARY not in done.output


class TestSilence:
    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_no_key_and_no_password_is_ever_printed(self, practice: Practice, options: tuple[str, ...]) -> None:
        key_file = practice.folder / "key"
        key_file.write_text(f"pk_test_{CANARY}")
        key_file.chmod(0o600)
        practice.platforms = practice.platform("main", more='publishable_key = { file = "key" }')
        practice.platforms += practice.platform("loud", url="http://127.0.0.1:1")
        private = [path.read_text().splitlines()[1] for path in (practice.folder / "keys").rglob("*.pem")]
        for broker, store in (
            (practice.broker, practice.store),
            (f"redis://:{CANARY}%2F%23@127.0.0.1:1/0", f"rediss://127.0.0.1:1/0?ssl_password={CANARY}"),
            (f"amqp://{CANARY}:{CANARY}@127.0.0.1:1/v", f"unix://:{CANARY}@/absent.sock?db=0"),
        ):
            practice.broker, practice.store = broker, store
            done = practice.call(*options)
            assert done.exit_code in (0, 1), done.output
            assert f"{CANARY}:" not in done.output.replace(f"amqp://{CANARY}:***", "")
            assert CANARY not in done.output.replace(f"amqp://{CANARY}:***", "")
            assert not [line for line in private if line in done.output]
            assert f"file {key_file}" in done.output
        practice.broker = f"redis://:{CANARY}/#?@127.0.0.1:1/0"  # not encoded, so no address
        done = practice.call(*options)
        assert done.exit_code == 2
        assert CANARY not in done.output

    @pytest.mark.parametrize(
        "url",
        [
            f"redis://:{CANARY}@h:1/0",
            f"redis://{CANARY}@h",
            f"amqp://u:x/{CANARY}@h/v",
            f"redis://:#{CANARY}@h",
            f"redis://:://{CANARY}@h",
            f"rediss://h?ssl_keyfile_password={CANARY}&db=1",
            f"redis://h?db=1&password={CANARY}",
        ],
    )
    def test_a_password_is_masked_wherever_it_is_written(self, url: str) -> None:
        assert CANARY not in masked(url)
        assert "***" in masked(url)
        assert "h" in masked(url)


@pytest.mark.anyio
class TestTheDeadline:
    async def test_what_was_found_before_it_is_kept(self) -> None:
        def slow() -> Iterator[Check]:
            yield ok("store connection", "here", "answers")
            time.sleep(0.5)

        found = await within(0.1, "store script", "here", slow, "look")
        assert [(check.name, check.state) for check in found] == [
            ("store connection", "ok"),
            ("store script", "failed"),
        ]

    async def test_a_bug_is_one_failed_check_without_its_text(self) -> None:
        def broken() -> Iterator[Check]:
            yield ok("store connection", "here", "answers")
            raise RuntimeError(CANARY)

        found = await within(5, "store script", "here", broken, "look")
        assert [check.state for check in found] == ["ok", "failed"]
        assert "RuntimeError" in found[1].says
        assert CANARY not in found[1].says


def test_help_explains_marks_exit_codes_and_shows_an_example() -> None:
    done = CliRunner().invoke(main, ["doctor", "--help"])
    assert done.exit_code == 0
    for words in ("Exit codes", "tokenferry doctor --json", "No token is created"):
        assert words in done.stdout
