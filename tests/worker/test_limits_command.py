"""What an operator types about rates, and an application of theirs that draws from the same budgets."""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from broker.places import Server
from click.testing import CliRunner, Result

from tokenferry.broker.embedded import Embedded
from tokenferry.cli import main
from tokenferry.configuration import load
from tokenferry_worker.commands.asking import ask_store
from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.on_redis.circuits import RedisCircuits
from tokenferry_worker.on_redis.controls import Controls
from tokenferry_worker.sharing import SharedBudgets

CONFIGURATION = """
[store]
url = "{url}"
prefix = "{prefix}"
[platforms.main]
secret_key = {{ env = "NOT_NEEDED_HERE" }}
[platforms.main.limits]
global_per_second = 100
endpoint_per_second = 20
reserved = 0.5
endpoints = {{ customers = 30 }}
"""


@pytest.fixture
def config(tmp_path: Path, valkey: Embedded) -> Path:
    path = tmp_path / "tokenferry.toml"
    prefix = f"limits-{secrets.token_hex(4)}"
    path.write_text(CONFIGURATION.format(url=valkey.database(6).redis_url, prefix=prefix))
    return path


def limits(config: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["limits", *words, "--config", str(config)])


def changes(config: Path) -> list[tuple[str, str, str]]:
    """Who changed which budget in what way, the newest first."""
    said = json.loads(limits(config, "history", "--json").output)
    return [(change["who"], change["budget"], change["what"]) for change in said]


def rates(config: Path) -> dict[str, float]:
    answer = limits(config, "show", "--json")
    assert answer.exit_code == 0, answer.output
    return {state["name"]: state["now"] for state in json.loads(answer.output)}


def test_every_budget_is_shown_less_what_is_reserved_for_other_traffic(config: Path) -> None:
    shown = rates(config)
    assert shown["main:global"] == 50.0
    assert shown["main:endpoint:tokens"] == 10.0
    assert shown["main:endpoint:customers"] == 15.0
    assert shown["main:account_creation"] == 2.5
    assert "main:endpoint:tokens" in limits(config, "show").output


def test_a_rate_is_set_shown_reset_and_every_change_is_recorded_with_its_reason(config: Path) -> None:
    said = limits(config, "set", "main:global", "7.5", "--why", "support asked us to", "--for", "2h")
    assert said.exit_code == 0, said.output
    assert rates(config)["main:global"] == 7.5
    assert limits(config, "reset", "main:global", "--why", "they are happy").exit_code == 0
    assert rates(config)["main:global"] == 50.0
    answer = limits(config, "history", "--json")
    first, second = reversed(json.loads(answer.output))
    assert (first["budget"], first["why"], second["why"]) == ("main:global", "support asked us to", "they are happy")
    assert "@" in first["who"]
    assert abs(first["at"] - time.time()) < 60
    assert "support asked us to" in limits(config, "history").output


def test_a_paused_platform_lets_nobody_call_until_it_is_resumed(config: Path) -> None:
    assert limits(config, "pause", "main:global", "--why", "maintenance").exit_code == 0
    assert "maintenance" in limits(config, "show").output
    budgets = SharedBudgets(load(config), "main")
    assert budgets.available("tokens") == 0.0
    with pytest.raises(TimeoutError):
        budgets.reserve("tokens", timeout=0.5)
    waiting = threading.Thread(target=budgets.reserve, args=("tokens",), kwargs={"timeout": 20})
    waiting.start()
    assert limits(config, "resume", "main:global", "--why", "done").exit_code == 0
    waiting.join(30)
    assert not waiting.is_alive()
    budgets.close()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("set", "main:globl", "5", "--why", "x"), "did you mean main:global"),
        (("set", "other:global", "5", "--why", "x"), "no budget is called that"),
        (("set", "main:global", "0", "--why", "x"), "0.001"),
        (("set", "main:global", "-3", "--why", "x"), "No such option"),
        (("set", "main:global", "fast", "--why", "x"), "not a valid float"),
        (("set", "main:global", "5"), "--why"),
        (("pause", "main:global", "--why", "x", "--for", "soon"), "30m"),
    ],
)
def test_a_word_that_makes_no_sense_is_refused_and_changes_nothing(
    config: Path, words: tuple[str, ...], hint: str
) -> None:
    before = rates(config)
    answer = limits(config, *words)
    assert answer.exit_code == 2
    assert hint in answer.output
    assert rates(config) == before


def test_a_budget_of_nothing_or_less_is_refused_in_the_configuration(config: Path) -> None:
    for wrong in ("0", "-1", "nan", "inf", '"fast"'):
        config.write_text(config.read_text().split("[platforms.main.limits]")[0])
        with config.open("a") as file:
            file.write(f"[platforms.main.limits]\nglobal_per_second = {wrong}\n")
        answer = limits(config, "show")
        assert answer.exit_code == 2
        assert "global_per_second" in answer.output


def test_a_store_that_is_away_is_one_clear_message(tmp_path: Path) -> None:
    config = tmp_path / "tokenferry.toml"
    config.write_text('[store]\nurl = "redis://127.0.0.1:1/0"\n[platforms.main]\n')
    answer = limits(config, "show")
    assert answer.exit_code == 1
    assert "store" in answer.output
    assert "Traceback" not in answer.output


def test_an_application_and_the_fleet_draw_from_one_budget(config: Path) -> None:
    applications = [SharedBudgets(load(config), "main") for _ in range(2)]
    began = time.monotonic()
    for number in range(12):
        applications[number % 2].reserve("tokens", timeout=10)
    took = time.monotonic() - began
    assert took >= 9 / 10 - 0.01  # ten a second, three of them at once
    assert applications[0].available("tokens") == 10.0
    for application in applications:
        application.close()


def test_an_application_can_report_every_budget_that_it_can_draw_on(config: Path) -> None:
    config.write_text(config.read_text().replace("reserved =", "connected_account_per_second = 10\nreserved ="))
    budgets = SharedBudgets(load(config), "main")
    creating: dict[str, Any] = {"connected_account": "acct_1", "creates_account": True}

    def slowed() -> set[str]:
        return {budget for _, budget, what in changes(config) if what.startswith("slowed")}

    budgets.reserve("accounts", timeout=5, **creating)
    budgets.report("accounts", "global-rate", **creating)
    budgets.report("accounts", "resource-specific", **creating)
    budgets.report("customers", "resource-specific", connected_account="acct_1")
    budgets.report("customers", "endpoint-rate", connected_account="acct_2")
    creates, updates = "main:operation:POST /v1/customers", "main:operation:POST /v1/customers/{id}"
    assert slowed() == {
        "main:global",
        "main:account_creation",
        "main:account:acct_1",
        "main:endpoint:customers",
        creates,
        updates,
    }
    budgets.report("POST /v1/payment_methods", "endpoint-rate")
    assert "main:operation:POST /v1/payment_methods" in slowed()
    assert "main:operation:POST /v1/payment_methods/{id}/attach" not in slowed()
    budgets.report("accounts", "endpoint-rate")
    assert "main:endpoint:accounts" in slowed()
    assert budgets.available("accounts", **creating) < budgets.available("accounts") < 10.0
    budgets.close()


def test_who_waits_for_one_platform_is_in_nobodys_way_at_another(config: Path) -> None:
    config.write_text(config.read_text() + "[platforms.slow.limits]\nglobal_per_second = 1000\nburst = 1\n")
    assert limits(config, "set", "slow:global", "1", "--why", "the test begins").exit_code == 0
    slow, main_ = (SharedBudgets(load(config), name) for name in ("slow", "main"))
    bulk: dict[str, Any] = {"timeout": 60, "lane": "bulk"}
    waiting = [threading.Thread(target=slow.reserve, args=("tokens",), kwargs=bulk) for _ in range(10)]
    for one in waiting:
        one.start()
    for _ in range(5):
        main_.reserve("tokens", timeout=5, lane="bulk")
    assert sum(one.is_alive() for one in waiting) > 2
    assert limits(config, "reset", "slow:global", "--why", "the test is over").exit_code == 0
    for one in waiting:
        one.join(60)
    slow.close()
    main_.close()


def test_an_application_leaves_a_store_that_has_become_a_replica(config: Path, tmp_path: Path) -> None:
    """Where one name leads to another server after a failover: only a new connection gets there."""
    server = Server(tmp_path / "s")
    try:
        url = f"unix://{server.socket}?db=0"
        config.write_text(re.sub('url = ".*"', f'url = "{url}"', config.read_text(), count=1))
        budgets, operator = SharedBudgets(load(config), "main"), redis.Redis.from_url(url)
        budgets.reserve("tokens", timeout=30)
        before = {one["id"] for one in operator.client_list()}
        operator.replicaof("127.0.0.1", 1)
        with pytest.raises(redis.ConnectionError, match="replica"):
            budgets.reserve("tokens", timeout=30)
        operator.replicaof("no", "one")
        budgets.reserve("tokens", timeout=30)
        after = {one["id"] for one in operator.client_list()}
        assert after - before, "a connection of its own, and new"
        budgets.close()
        operator.close()
    finally:
        server.kill()


def test_a_429_that_an_application_reports_slows_the_whole_fleet(config: Path, valkey: Embedded) -> None:
    budgets = SharedBudgets(load(config), "main")
    budgets.report("tokens", "endpoint-rate")
    assert rates(config)["main:endpoint:tokens"] == pytest.approx(9.3, abs=0.01)
    assert rates(config)["main:global"] == 50.0
    assert "429" in limits(config, "history").output
    budgets.close()
    client = redis.Redis.from_url(valkey.database(6).redis_url)
    assert all(client.pttl(key) > 0 for key in client.scan_iter(f"{load(config).store.prefix}:*"))


def test_a_budget_for_an_endpoint_that_nobody_calls_is_refused_with_the_names_there_are(config: Path) -> None:
    for table in ("endpoints = { costumers = 5 }", "in_flight = { costumers = 5 }"):
        config.write_text(
            config.read_text().split("[platforms.main.limits]")[0] + f"[platforms.main.limits]\n{table}\n"
        )
        answer = limits(config, "show")
        assert answer.exit_code == 2
        assert "no endpoint costumers" in answer.output
        assert "customers" in answer.output


def counted_by(config: Path, by: str, *, more: str = "") -> None:
    config.write_text(
        config.read_text().replace("[platforms.main.limits]", f'[platforms.main.limits]\nby = "{by}"{more}')
    )


@pytest.mark.parametrize(
    ("by", "operations", "resources"), [("resource", False, True), ("both", True, True), ("operation", True, False)]
)
def test_the_budgets_are_of_operations_or_resources_or_both(
    config: Path, by: str, operations: bool, resources: bool
) -> None:
    counted_by(config, by)
    shown = rates(config)
    assert ("main:operation:POST /v1/customers/{id}" in shown) == operations
    assert ("main:endpoint:customers" in shown) == resources
    assert {"main:global", "main:account_creation"} <= set(shown)


def test_one_operation_is_paused_and_the_others_of_its_resource_go_on(config: Path) -> None:
    counted_by(config, "operation")
    name = "main:operation:POST /v1/customers/{id}"
    said = limits(config, "pause", name, "--why", "wrong updates")
    assert said.exit_code == 0, said.output
    assert f"resume '{name}' --why" in said.output, "as a shell takes it"
    assert rates(config)["main:operation:POST /v1/customers"] == 15.0
    budgets = SharedBudgets(load(config), "main")
    assert budgets.available("POST /v1/customers/{id}") == 0.0
    assert budgets.available("customers") == 0.0, "nobody knows which operation is meant"
    budgets.reserve("POST /v1/customers", timeout=5)
    budgets.close()
    assert limits(config, "resume", name, "--why", "corrected").exit_code == 0


def test_the_name_of_a_resource_leads_to_its_operations_where_these_are_counted(config: Path) -> None:
    counted_by(config, "operation")
    said = limits(config, "pause", "main:endpoint:customers", "--why", "as ever")
    assert said.exit_code == 2
    shown = " ".join(said.output.split())
    assert '"main:operation:POST /v1/customers" and "main:operation:POST /v1/customers/{id}"' in shown


def test_the_older_names_of_settings_are_read_and_both_names_at_once_are_refused(
    config: Path, environment: dict[str, str]
) -> None:
    assert rates(config)["main:operation:POST /v1/tokens"] == 10.0, "of endpoint_per_second"
    assert rates(config)["main:operation:POST /v1/customers"] == 15.0, "of endpoints"
    environment["TOKENFERRY_PLATFORMS__MAIN__LIMITS__OPERATION_PER_SECOND"] = "8"
    answer = limits(config, "show")
    assert answer.exit_code == 2
    assert "endpoint_per_second is the older name of operation_per_second" in " ".join(answer.output.split())


def test_the_rate_of_account_creation_has_a_setting_of_its_own(config: Path) -> None:
    counted_by(config, "operation", more='\noperations = { "POST /v1/accounts" = 3 }')
    config.write_text(config.read_text().replace("endpoints =", "# endpoints ="))
    answer = limits(config, "show")
    assert answer.exit_code == 2
    assert "account_creation_per_second" in answer.output


@pytest.mark.parametrize("by", ['"path"', '""', "5"])
def test_another_way_of_counting_is_refused(config: Path, by: str) -> None:
    config.write_text(config.read_text().replace("[platforms.main.limits]", f"[platforms.main.limits]\nby = {by}"))
    answer = limits(config, "show")
    assert answer.exit_code == 2
    assert "by: must be 'resource', 'both' or 'operation'" in " ".join(answer.output.split())


@pytest.mark.parametrize("rate", ["nan", "NaN", "-nan", "inf", "1e400", "0", "-1"])
def test_what_is_no_rate_is_refused_before_anything_is_written(config: Path, rate: str) -> None:
    said = limits(config, "set", "main:global", "--why", "a slip", "--", rate)
    assert said.exit_code == 2
    assert rates(config)["main:global"] == 50.0
    assert limits(config, "history").output == ""


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), 0.0])
def test_what_is_no_rate_is_refused_also_where_no_command_line_has_looked_at_it(config: Path, rate: float) -> None:
    configuration = load(config)
    with pytest.raises(ValueError, match="number above 0"):
        ask_store(
            configuration,
            lambda store: Controls(store).command(
                "set", Budget("main:global", 50.0), who="me", why="x", rate=rate, lasts=9
            ),
        )


@pytest.mark.parametrize(
    ("budget", "setting"),
    [
        ("main:global", "[platforms.main.limits] global_per_second"),
        ("main:endpoint:customers", "[platforms.main.limits] operations.customers"),
        ("main:endpoint:tokens", "[platforms.main.limits] operation_per_second"),
        ("main:operation:POST /v1/tokens", "[platforms.main.limits] operation_per_second"),
        ("main:operation:POST /v1/customers/{id}", "[platforms.main.limits] operations.customers"),
        ("main:account_creation", "[platforms.main.limits] account_creation_per_second"),
    ],
)
def test_a_rate_above_the_configured_one_is_refused_and_the_setting_is_named(
    config: Path, budget: str, setting: str
) -> None:
    said = limits(config, "set", budget, "50.1", "--why", "faster")
    assert said.exit_code == 2
    assert setting in " ".join(said.output.split())
    assert limits(config, "history").output == ""


def test_a_rate_that_somebody_wrote_into_the_store_counts_as_the_configured_one_and_is_shown(config: Path) -> None:
    configuration = load(config)
    client = redis.Redis.from_url(configuration.store.url)
    later = (int(time.time()) + 600) * 1_000_000
    client.hset(f"{configuration.store.prefix}:budget:main:global", mapping={"rate": 900, "until": later, "at": 0})
    assert rates(config)["main:global"] == 50.0
    shown = " ".join(limits(config, "show").output.split())
    assert "the store says 900, and [platforms.main.limits] global_per_second caps it" in shown


@pytest.mark.parametrize("written", ["nan", "inf", "-1", "0", "words"])
def test_a_budget_with_nonsense_in_it_goes_on_at_the_configured_rate(
    config: Path, valkey: Embedded, written: str
) -> None:
    configuration = load(config)
    client = redis.Redis.from_url(configuration.store.url)
    key = f"{configuration.store.prefix}:budget:main:global"
    until = int((time.time() + 3600) * 1e6)
    client.hset(key, mapping={"at": written, "rate": written, "factor": written, "since": written, "until": until})
    client.pexpire(key, 60_000)
    assert rates(config)["main:global"] == 50.0
    budgets = SharedBudgets(configuration, "main")
    budgets.reserve("tokens", timeout=5)
    budgets.close()
    assert limits(config, "reset", "main:global", "--why", "afresh").exit_code == 0
    left = client.hgetall(key)
    client.close()
    assert set(left) <= {b"at"}
    assert left.get(b"at", b"0").isdigit()


@pytest.mark.parametrize("why", ["two\nlines", "\x1b[2Jgone", "", "x" * 501])
def test_a_reason_is_one_line_that_a_terminal_can_show(config: Path, why: str) -> None:
    assert limits(config, "pause", "main:global", "--why", why).exit_code == 2
    assert limits(config, "history").output == ""


def test_a_circuit_whose_request_the_endpoint_did_not_name_is_shown_without(config: Path) -> None:
    for scope, request_id in (("main", "req_42"), ("main/tokens", "")):
        ask_store(
            load(config),
            lambda store, scope=scope, id_=request_id: RedisCircuits(store).open(scope, 401, "unauthorized", id_),
        )
    config.write_text(config.read_text() + "[broker]\n" + config.read_text().split("[store]\n")[1].split("\n")[0])
    shown = CliRunner().invoke(main, ["circuits", "--config", str(config)])
    assert shown.exit_code == 0, shown.output
    assert shown.output.count(": 401 unauthorized\n") == 1
    assert shown.output.count(": 401 unauthorized (request req_42)\n") == 1


def test_a_store_that_is_away_or_refuses_is_said_at_once_and_in_one_line(config: Path, valkey: Embedded) -> None:
    text = config.read_text()
    url = valkey.database(6).redis_url
    for wrong, says in (
        (url.replace(valkey.password, "wrong"), "the store refuses the user name or password"),
        ("redis://127.0.0.1:1/0", "the store could not be reached (Connection refused)"),
    ):
        config.write_text(text.replace(url, wrong))
        for command in (["limits", "show"], ["circuits"]):
            said = CliRunner().invoke(main, [*command, "--config", str(config)])
            assert (said.exit_code, said.stdout) == (1, "")
            assert said.stderr.startswith(f"tokenferry: {says}"), said.stderr
            assert said.stderr.count("\n") == 1
