"""`tokenferry attach` on a real Valkey: orders from the command line, from lines, from results piped in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tokenferry.cli import main
from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.queues import attach_queues
from tokenferry.contract.results import AttachResult, Failure, TokenResult
from tokenferry.contract.targets import CustomerSource
from tokenferry.inputs.attach_orders import id_for
from tokenferry.ordering import LOOKS_LIKE

from .conftest import CANARY, House, interrupt
from .taking import Taker

SOURCE = ("--to", "customer_source", "--set", "customer=cus_1")


class AttachStandIn(Taker):
    """Takes orders off the attach queue; spends every token once, and refuses those called `tok_bad...`."""

    def queues(self) -> tuple[str, ...]:
        return tuple(attach_queues(self.platform))

    def answer(self, delivery: Any) -> None:
        request = AttachRequest.model_validate(self.argument(delivery)["request"])
        self.taken.append(request)
        bad = request.token.startswith("tok_bad")
        failure = Failure(code="token_spent", source="tokenferry", spent_by="other", spent_on="cus_0") if bad else None
        result = AttachResult(
            outcome_id=f"{request.attach_id}:attach",
            request_id=request.request_id,
            attach_id=request.attach_id,
            kind=request.kind,
            platform=request.platform,
            settled_at=1,
            to=request.target.to,
            token=request.token,
            object_id=None if bad else "cus_1",
            stored_id=None if bad else "card_1",
            failure=failure,
        )
        if request.reply_to is not None:
            self.reply(request.reply_to, result)
        delivery.ack()


@pytest.fixture
def worker(house: House) -> Iterator[AttachStandIn]:
    with AttachStandIn(house.configuration(), house.platform) as stand_in:
        yield stand_in


def attach(house: House, *arguments: str, lines: list[Any] | None = None) -> Result:
    text = "".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines or [])
    return CliRunner().invoke(main, ["attach", *arguments, "--config", str(house.config)], input=text)


def token_result(token: str | None, **changed: Any) -> dict[str, Any]:
    about: dict[str, Any] = {"outcome_id": "o", "request_id": "req-7", "kind": "card", "settled_at": 1}
    failure = None if token else Failure(code="card_declined", source="endpoint")
    return json.loads(TokenResult(**{**about, "token": token, "failure": failure, **changed}).model_dump_json())  # type: ignore[no-any-return]


def test_one_token_from_the_command_line_becomes_what_was_ordered(house: House, worker: AttachStandIn) -> None:
    more = ("--set", "metadata.row=7", "--set", "validate_source=true", "--connected-account", "acct_1")
    done = attach(house, "tok_1", "--kind", "card", *SOURCE, *more, "--wait")
    assert (done.exit_code, done.stderr) == (0, "")
    (order,) = worker.taken
    assert done.stdout.splitlines() == [order.attach_id, f"attached {order.attach_id} tok_1 cus_1 card_1"]
    assert (order.token, order.connected_account, order.platform) == ("tok_1", "acct_1", house.platform)
    assert order.target.model_dump(exclude_none=True) == {
        "to": "customer_source",
        "customer": "cus_1",
        "metadata": {"row": "7"},
        "validate_source": True,
    }


@pytest.mark.parametrize(("options", "lane"), [((), "bulk"), (("--lane", "realtime"), "realtime")])
def test_an_order_waits_in_the_lane_it_names(
    house: House, worker: AttachStandIn, options: tuple[str, ...], lane: str
) -> None:
    assert attach(house, "tok_1", "--kind", "card", *SOURCE, *options, "--wait").exit_code == 0
    assert [order.lane for order in worker.taken] == [lane]


def test_without_wait_the_attach_id_is_printed_and_an_id_can_be_named(house: House) -> None:
    done = attach(house, "tok_1", "--kind", "card", *SOURCE, "--attach-id", "order-7", "--reply-to", "later")
    assert (done.exit_code, done.stdout) == (0, "order-7\n")
    done = attach(house, "tok_1", "--kind", "card", *SOURCE, "--json")
    line = json.loads(done.stdout)
    assert (line["token"], line["status"], line["line"]) == ("tok_1", "sent", None)


def test_a_target_comes_as_json_too(house: House, worker: AttachStandIn) -> None:
    target = {"to": "charge", "amount": 100, "currency": "usd"}
    done = attach(house, "tok_1", "--kind", "card", "--target-json", "-", "--wait", lines=[target])
    assert done.exit_code == 0
    assert worker.taken[0].target.to == "charge"


def test_the_age_of_a_token_travels_with_an_order_that_knows_it(house: House, worker: AttachStandIn) -> None:
    row = {"status": "tokenized", "row": 2, "kind": "card", "token": "tok_1", "created": 1_700_000_000, "failure": None}
    lines = [row, {"token": "tok_2", "kind": "card", "created": 1_700_000_000}, {"token": "tok_3", "created": "today"}]
    done = attach(house, "--kind", "card", *SOURCE, "--wait", lines=lines)
    assert "line 3: created: " in done.stderr
    assert {order.token: order.token_created_at for order in worker.taken} == {
        "tok_1": 1_700_000_000_000,
        "tok_2": 1_700_000_000_000,
    }


def test_many_orders_come_as_lines_and_what_is_wrong_with_one_holds_up_no_other(
    house: House, worker: AttachStandIn
) -> None:
    own = {"to": "customer_create", "email": "z@example.com"}
    lines: list[Any] = [
        {"token": "tok_1", "kind": "card", "target": own, "attach_id": "order-1"},
        "not JSON",
        {"token": "cus_1"},
        {"token": CANARY},
        {"token": "tok_3", CANARY: 1},
        {"token": "tok_3", f"a{CANARY}": 1},
        {"token": "tok_3", "amount": 1},
        {"token": "tok_3", "target": {"to": "topup", "amount": 1, "currency": "usd"}},
        {"token": "tok_3", "target": {"to": "nowhere"}},
        {"token": "tok_3", "platform": "other"},
        "",
        token_result("tok_9", platform=house.platform),
        token_result(None, platform=house.platform),
        {"status": "tokenized", "row": 4, "key": "k", "kind": "card", "token": "tok_4", "object_id": None},
        {"status": "attached", "row": 5, "key": "k", "kind": "card", "token": "tok_5", "object_id": "cus_5"},
        {"token": "tok_3", "target": {**own, "description": f"card {CANARY}"}},
    ]
    file = house.file("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines))
    done = attach(house, "--file", str(file), "--kind", "card", *SOURCE, "--wait")
    assert done.exit_code == 1
    assert [order.token for order in worker.taken] == ["tok_1", "tok_9", "tok_4"]
    assert [order.target.to for order in worker.taken] == ["customer_create", "customer_source", "customer_source"]
    assert (worker.taken[0].attach_id, worker.taken[1].request_id) == ("order-1", "req-7")
    assert done.stderr.splitlines() == [
        "tokenferry: line 2: the line is not a JSON object",
        f"tokenferry: line 3: token: is the id of a customer, not of a token; {LOOKS_LIKE['token']}",
        "tokenferry: line 4: token: must contain letters: an id of digits alone could be a card number; "
        + LOOKS_LIKE["token"],
        "tokenferry: line 5: is neither an order nor a token's result; "
        "known are token, kind, target, platform, connected_account, attach_id, created",
        "tokenferry: line 6: is neither an order nor a token's result; "
        "known are token, kind, target, platform, connected_account, attach_id, created",
        "tokenferry: line 7: amount: unknown field; "
        "known are token, kind, target, platform, connected_account, attach_id, created",
        "tokenferry: line 8: topup takes bank_account tokens; choose another target",
        *[
            line
            for line in done.stderr.splitlines()
            if line.startswith("tokenferry: line 9: target.to: must be one of")
        ],
        "tokenferry: line 10: platform: is not configured",
        "tokenferry: line 13: request req-7 has no token (card_declined)",
        "tokenferry: line 15: this row has no token that is still to be used",
        "tokenferry: line 16: customer_create: holds what looks like a card number; leave it out: "
        "it would travel and rest in clear",
    ]
    assert len(done.stderr.splitlines()) == 12
    assert sum(line.startswith("attached ") for line in done.stdout.splitlines()) == 3
    assert CANARY not in done.output


def test_an_order_that_cannot_be_is_refused_by_its_line_and_the_others_are_waited_for(
    house: House, worker: AttachStandIn
) -> None:
    lines = [{"token": "tok_1"}, {"token": "tok_2", "created": 4102444800}, {"token": "tok_3"}]
    done = attach(house, "--kind", "card", *SOURCE, "--wait", lines=lines)
    assert done.exit_code == 1
    assert "tokenferry: line 2: " in done.stderr
    assert [order.token for order in worker.taken] == ["tok_1", "tok_3"]
    assert sum(line.startswith("attached ") for line in done.stdout.splitlines()) == 2


def test_two_orders_of_a_file_do_not_share_an_id(house: House, worker: AttachStandIn) -> None:
    same = {"token": "tok_1", "attach_id": "order-1"}
    done = attach(house, "--kind", "card", *SOURCE, "--wait", lines=[same, same, {**same, "token": "tok_2"}])
    assert done.exit_code == 1
    assert "line 3: attach_id: another order of this file has it" in done.stderr
    assert {order.token for order in worker.taken} == {"tok_1"}


def test_for_programs_every_line_is_json_refusals_included(house: House, worker: AttachStandIn) -> None:
    lines = [{"token": "tok_1"}, {"token": "tok_bad1"}, {"kind": "card"}]
    done = attach(house, "--kind", "card", *SOURCE, "--wait", "--json", lines=lines)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.exit_code, done.stderr) == (1, "")
    assert said[0] == {"line": 3, "status": "refused", "reason": "token: is required"}
    failures = {line["token"]: line.get("failure") for line in said[1:]}
    assert failures["tok_1"] is None
    assert (failures["tok_bad1"]["spent_by"], failures["tok_bad1"]["spent_on"]) == ("other", "cus_0")


def test_the_attach_id_of_a_result_never_changes() -> None:
    """Another one would be another order, of a token that an earlier version has ordered to be spent already."""
    result = TokenResult(outcome_id="o", request_id="req-7", kind="card", platform="main", token="tok_1", settled_at=1)
    target = CustomerSource(customer="cus_1")
    assert id_for(result, target) == "att-nabdkgndcidbknkjfpebbnddknhfcbep"
    later = result.model_copy(update={"outcome_id": "p", "settled_at": 2, "created": 3, "livemode": False})
    assert id_for(later, target) == id_for(result, target)
    others = [
        result.model_copy(update={name: "other"})
        for name in ("request_id", "kind", "platform", "token", "connected_account")
    ]
    ids = [id_for(other, target) for other in others] + [id_for(result, CustomerSource(customer="cus_2"))]
    assert len({id_for(result, target), *ids}) == 7


def test_a_result_and_the_row_of_an_import_with_the_same_token_are_the_same_order(
    house: House, worker: AttachStandIn
) -> None:
    row = {"status": "tokenized", "row": 2, "kind": "card", "token": "tok_1", "request_id": "req-7", "failure": None}
    result = token_result("tok_1", platform=house.platform)
    assert attach(house, *SOURCE, "--wait", lines=[row, result]).exit_code == 0
    assert len({order.attach_id for order in worker.taken}) == 1
    assert {order.request_id for order in worker.taken} == {"req-7"}
    worker.taken.clear()
    assert attach(house, *SOURCE, "--wait", "--again", lines=[row, result]).exit_code == 0
    assert len({order.attach_id for order in worker.taken}) == 2


def test_waiting_on_a_shared_route_leaves_the_results_of_others_there(house: House, worker: AttachStandIn) -> None:
    route = f"shared-{house.platform}"
    other = token_result("tok_9", platform=house.platform)
    worker.reply(route, TokenResult.model_validate(other))
    done = attach(house, "tok_1", "--kind", "card", *SOURCE, "--reply-to", route, "--wait", "--json")
    assert done.exit_code == 0
    assert [json.loads(line)["token"] for line in done.stdout.splitlines()] == ["tok_1"]
    seen = CliRunner().invoke(main, ["results", route, "--config", str(house.config)])
    assert [json.loads(line)["token"] for line in seen.stdout.splitlines()] == ["tok_9"]


def test_results_can_be_piped_in_and_a_spent_token_says_by_whom(house: House, worker: AttachStandIn) -> None:
    done = attach(house, *SOURCE, "--wait", lines=[token_result("tok_bad1", platform=house.platform)])
    assert done.exit_code == 1
    assert done.stdout.splitlines()[1].endswith("tok_bad1 token_spent by other on cus_0")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["tok_1", *SOURCE], "kind: must be one of card, bank_account"),
        (["tok_1", "--kind", "card"], "target: is required"),
        (["tok_1", "--kind", "pii", *SOURCE], "customer_source takes bank_account or card tokens"),
        (["tok_1", "--kind", "card", *SOURCE, "--set", "custmer=1"], "a field of customer_source: customer, metadata"),
        (["tok_1", "--kind", "card", *SOURCE, "--set", "customer=cus_2"], "--set customer is given twice"),
        (["tok_1", "--kind", "card", "--set", "customer=cus_2"], "name the target with --to"),
        (["tok_1", "--kind", "card", "--to", "customer_source"], "customer_source.customer: is required"),
        (
            ["tok_1", "--kind", "card", "--to", "customer_update", "--set", "customer=cus_1"],
            "set may_collect_open_invoices=True",
        ),
        (
            ["btok_1", "--kind", "bank_account", "--to", "account_update", "--set", "account=acct_1"],
            "set replace_default=True",
        ),
        ([CANARY, "--kind", "card", *SOURCE], "could be a card number"),
        (["card_1", "--kind", "card", *SOURCE], "is the id of a card, not of a token"),
        (["tok_1", "--file", "x", *SOURCE], "give TOKEN or --file, not both"),
        (["tok_1", "--target-json", "x", *SOURCE], "give --target-json, or --to with --set, not both"),
        (["--target-json", "-"], "standard input can hold the target or the orders"),
        (["--attach-id", "a", *SOURCE], "--attach-id is for one TOKEN"),
        (["tok_1", "--kind", "card", *SOURCE, "--attach-id", CANARY], "attach_id:"),
        (["tok_1", "--kind", "card", *SOURCE, "--reply-to", "No Route"], "--reply-to must be lower case"),
        (["--file", "/nowhere/x.jsonl", *SOURCE], "cannot be read"),
        (["tok_1", "--kind", "card", *SOURCE, "--platform", "other"], "is not configured"),
    ],
)
def test_wrong_usage_ends_with_2_names_the_field_and_sends_nothing(
    offline: House, arguments: list[str], reason: str
) -> None:
    done = attach(offline, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert reason in done.stderr
    assert CANARY not in done.stderr


def test_a_dangerous_target_goes_where_its_field_is_given(house: House, worker: AttachStandIn) -> None:
    update = ("--to", "account_update", "--set", "account=acct_1", "--set", "replace_default=true")
    assert attach(house, "btok_1", "--kind", "bank_account", *update, "--wait").exit_code == 0


def test_a_dead_broker_is_one_message_with_the_id_to_repeat(offline: House) -> None:
    done = attach(offline, "tok_1", "--kind", "card", *SOURCE, "--attach-id", "order-7")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "could not be reached" in done.stderr
    assert "--attach-id order-7" in done.stderr


def test_waiting_in_vain_ends_with_1_and_says_where_the_outcome_will_be(house: House) -> None:
    done = attach(house, "tok_1", "--kind", "card", *SOURCE, "--wait", "--timeout", "0.3")
    assert done.exit_code == 1
    assert "1 without an outcome yet" in done.stderr
    assert "tokenferry results attach-" in done.stderr


def test_ctrl_c_ends_the_waiting_and_not_the_orders(house: House) -> None:
    arguments = ["attach", "tok_1", "--kind", "card", *SOURCE, "--wait", "--config", str(house.config)]
    process = house.start(*arguments)
    assert process.stdout is not None
    attach_id = process.stdout.readline().strip()
    _, errors = interrupt(process)
    assert process.returncode == 1
    assert "1 without an outcome yet" in errors
    with AttachStandIn(house.configuration(), house.platform) as worker:
        while not worker.taken:
            pass
    assert worker.taken[0].attach_id == attach_id
