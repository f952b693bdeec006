"""`tokenferry send` and `tokenferry results` on a real Valkey."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import forking
import pytest
from click.testing import CliRunner, Result

from tokenferry import CardRequest, Order, Producer
from tokenferry.cli import main
from tokenferry.consuming import PREFETCH

from .conftest import CANARY, House, StandIn, write_configuration
from .taking import eventually

CARD = {"number": CANARY, "exp_month": 12, "exp_year": 2034}


def send(house: House, data: object, *more: str, kind: str = "card") -> Result:
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    arguments = ["send", "--kind", kind, "--json-input", "-", "--config", str(house.config), *more]
    return CliRunner().invoke(main, arguments, input=text)


def results(house: House, route: str, *more: str) -> Result:
    return CliRunner().invoke(main, ["results", route, "--config", str(house.config), *more])


def test_what_is_sent_is_answered_on_the_route_that_was_named(house: House, worker: StandIn) -> None:
    route = f"route-{house.platform}"
    sent = send(house, CARD, "--reply-to", route)
    assert sent.exit_code == 0
    assert sent.stdout.startswith("req-")

    eventually(lambda: len(worker.taken) == 1)
    read = results(house, route)

    assert read.exit_code == 0
    assert [json.loads(line)["request_id"] for line in read.stdout.splitlines()] == [sent.stdout.strip()]
    assert CANARY not in sent.output + read.output


def test_wait_prints_the_token(house: House, worker: StandIn) -> None:
    done = send(house, {"card": CARD}, "--wait", "--json")

    assert done.exit_code == 0
    line = json.loads(done.stdout)
    assert (line["status"], line["token"], line["failure"]) == ("tokenized", "tok_1", None)
    assert worker.taken[0].lane == "realtime"


def test_wait_with_an_attach_prints_what_the_token_became(house: House, worker: StandIn) -> None:
    done = send(house, {**CARD, "attach": {"to": "customer_create", "email": "z@example.com"}}, "--wait")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[1] == "attached tok_1 cus_1"


def test_wait_ends_with_1_when_there_is_no_token(house: House) -> None:
    with StandIn(house.configuration(), house.platform, lambda header: "no_luck"):
        done = send(house, CARD, "--wait")
    assert (done.exit_code, done.stdout.splitlines()[1]) == (1, "failed no_luck")


def test_wait_does_not_wait_for_ever(house: House) -> None:
    done = send(house, CARD, "--wait", "--timeout", "0.3", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["status"] == "unfinished"
    assert "tokenferry results send-" in done.stderr
    queue = f"tokenize.realtime.{house.platform}"
    assert f"A message waits in {queue}: does a worker of this fleet read it?" in done.stderr


def test_waiting_on_a_shared_route_leaves_the_results_of_other_requests_there(house: House, worker: StandIn) -> None:
    route = f"shared-{house.platform}"
    first = send(house, CARD, "--reply-to", route).stdout.strip()
    eventually(lambda: len(worker.taken) == 1)
    done = send(house, CARD, "--reply-to", route, "--wait", "--json")
    (shown,) = [json.loads(line)["request_id"] for line in done.stdout.splitlines()]
    assert shown != first
    assert [json.loads(line)["request_id"] for line in results(house, route).stdout.splitlines()] == [first]


def test_waiting_behind_more_results_of_others_than_can_be_held_ends_and_says_so(house: House, worker: StandIn) -> None:
    route = f"crowded-{house.platform}"
    with Producer(house.configuration()) as producer:
        orders = (Order(CardRequest(**CARD), reply_to=route) for _ in range(PREFETCH))
        others = set(producer.send_many(orders))
    eventually(lambda: len(worker.taken) == PREFETCH)
    done = send(house, CARD, "--reply-to", route, "--wait", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["status"] == "unfinished"
    assert f"too many results of others wait on route {route}" in done.stderr
    assert others < {json.loads(line)["request_id"] for line in results(house, route).stdout.splitlines()}


def test_a_request_id_can_be_named_to_repeat_a_send(house: House, worker: StandIn) -> None:
    assert send(house, CARD, "--request-id", "order-7").stdout == "order-7\n"
    assert send(house, CARD, "--request-id", CANARY).exit_code == 2


@pytest.mark.parametrize(
    ("data", "message", "code"),
    [
        ({**CARD, "number": CANARY + "9"}, "card.number: does not pass the Luhn check", 1),
        ({**CARD, "attach": {"to": "topup"}}, "attach.amount: is required", 1),
        (b"[1]", "standard input: is not a JSON object", 2),
        (b"", "standard input: is empty", 2),
        (b'{"number": "' + CANARY.encode() * 100_000 + b'"}', "is longer than 1 MiB", 2),
        (b"\xff{}", "standard input: the line is not UTF-8", 2),
        (b'{"number": "1\0"}', "standard input: the line contains a NUL byte", 2),
        (b'{"number": "1", "number": "2"}', "standard input: holds an object with the same name twice", 2),
        (b'{"exp_month": NaN}', "standard input: holds NaN or Infinity", 2),
    ],
)
def test_bad_input_is_one_message_without_its_value(offline: House, data: object, message: str, code: int) -> None:
    done = send(offline, data)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert message in done.stderr
    assert CANARY not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("option", ["--json", "--wait"])
def test_the_id_of_what_was_sent_is_said_also_where_standard_output_is_full(
    house: House, worker: StandIn, option: str
) -> None:
    arguments = ["send", "--kind", "card", "--json-input", "-", "--config", str(house.config), option]
    with open("/dev/full", "wb") as full:
        done = forking.run([sys.executable, "-m", "tokenferry", *arguments], input=json.dumps(CARD), stdout=full)
    eventually(lambda: len(worker.taken) == 1)
    assert (done.returncode, done.stderr) == (
        1,
        f"tokenferry: the request was sent as {worker.taken[0].request_id}; "
        "standard output cannot be written (No space left on device)\n",
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_an_order_that_was_sent_is_named_also_where_standard_output_is_full(house: House) -> None:
    order = ["tok_1", "--kind", "card", "--to", "customer_create", "--attach-id", "order-7"]
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "tokenferry", "attach", *order, "--config", str(house.config)]
        done = forking.run(command, stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith("tokenferry: the order order-7 was sent; standard output cannot be written (No space")
    assert done.stderr.count("\n") == 1


def test_for_programs_a_refusal_is_json_too(offline: House) -> None:
    refused = send(offline, {**CARD, "number": CANARY + "9"}, "--json")
    assert json.loads(refused.stdout) == {
        "request_id": None,
        "status": "refused",
        "reason": "card.number: does not pass the Luhn check; a digit is wrong or missing",
    }
    away = send(offline, CARD, "--json", "--request-id", "order-7")
    assert json.loads(away.stdout)["status"] == "refused"
    assert json.loads(away.stdout)["request_id"] == "order-7"
    assert (refused.exit_code, away.exit_code) == (1, 1)


def test_a_dead_broker_is_one_message_with_the_id_to_repeat(offline: House) -> None:
    done = send(offline, CARD)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "could not be reached" in done.stderr
    assert "--request-id req-" in done.stderr
    read = results(offline, "route")
    assert (read.exit_code, read.stderr.count("\n")) == (1, 1)
    assert "could not be reached" in read.stderr


def test_a_platform_that_is_not_configured_is_wrong_usage(offline: House) -> None:
    assert send(offline, CARD, "--platform", "other").exit_code == 2
    write_configuration(offline, "")
    offline.config.write_text(offline.config.read_text() + "[platforms.second]\n")
    done = send(offline, CARD)
    assert done.exit_code == 2
    assert "name the --platform" in done.stderr


def test_a_result_nobody_could_read_because_the_pipe_was_closed_stays(house: House, worker: StandIn) -> None:
    route = f"pipe-{house.platform}"
    sent = send(house, CARD, "--reply-to", route).stdout.strip()
    eventually(lambda: len(worker.taken) == 1)
    process = house.start("results", route, "--config", str(house.config))
    assert process.stdout is not None
    process.stdout.close()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
    assert process.returncode == 1
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()

    assert [json.loads(line)["request_id"] for line in results(house, route).stdout.splitlines()] == [sent]


def test_where_standard_output_is_closed_no_result_is_shown(house: House, worker: StandIn) -> None:
    route = f"route-{house.platform}"
    sent = send(house, CARD, "--reply-to", route).stdout.strip()
    eventually(lambda: len(worker.taken) == 1)
    command = [sys.executable, "-m", "tokenferry", "results", route, "--config", str(house.config)]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "tokenferry: standard output is closed: no result was shown\n")
    assert json.loads(results(house, route).stdout)["request_id"] == sent


def test_a_route_that_cannot_be_one_is_refused(offline: House) -> None:
    done = results(offline, CANARY)
    assert done.exit_code == 2
    assert CANARY not in done.output
