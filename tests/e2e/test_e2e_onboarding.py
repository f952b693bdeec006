"""Whole accounts through real processes: killed in the middle, many at once, corrected, and silent about people."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from e2e import cargo
from e2e.house import BrokerKind, House, Route, until
from e2e.leaks import found
from faults.line import Line, Trap
from faults.scene import CONFIGURATION, Lines, Scene, scene
from faults.steps import step_traps
from redis import Redis

from tokenferry import AccountRequest, OnboardingResult, Order, onboarding_from
from tokenferry.broker import connecting
from tokenferry.contract.connect import Company
from tokenferry.contract.targets import AccountUpdate, ExternalAccount, PersonUpdate
from tokenferry_worker import on_redis

pytestmark = pytest.mark.any_broker

PERSONS = 3
OBJECTS = {"account": 1, "person": PERSONS, "external_account": 1}
"""What one document makes."""
STEPS = 1 + PERSONS + 1 + 1 + 1
"""Account, persons, one id number, bank account, and what is said of the persons at the end."""
SECRETS = ("222222222", "111111111", "000123456789", "Wilhelmina", "Quagmire", "Zanzibar", "Fictitious", "seller-mail")


def document(reference: str, **parts: Any) -> dict[str, Any]:
    """A company with three persons, one of them with a number of its own, and a bank account."""
    persons = [
        {
            "reference": f"p{at}",
            "person": {
                "first_name": "Wilhelmina",
                "last_name": "Quagmire",
                "dob": {"day": 1, "month": 1, "year": 1901},
                "relationship": {"owner": True, "representative": at == 0, "percent_ownership": 25},
                **({} if at else {"id_number": "111111111"}),
            },
        }
        for at in range(PERSONS)
    ]
    persons[1]["id_number"] = "222222222"
    bank = cargo.bank_account().model_dump(exclude_none=True)
    return {
        "reference": reference,
        "account": {"country": "US", "type": "custom", "email": "seller-mail@example.com", "metadata": {"own": "7"}},
        "legal_entity": {
            "business_type": "company",
            "company": {"name": "Fictitious Zanzibar", "tax_id": "222222222", "owners_provided": True},
            "tos_shown_and_accepted": True,
        },
        "persons": persons,
        "external_accounts": [{"reference": "bank", "bank_account": bank}],
        **parts,
    }


def send(house: House, route: Route, documents: Iterable[dict[str, Any]]) -> list[str]:
    """The onboarding ids, each accepted by the broker."""
    return [house.producer.onboard(onboarding_from(each), platform="main", reply_to=route.name) for each in documents]


def outcomes(route: Route, count: int, seconds: float = 60.0) -> dict[str, OnboardingResult]:
    """The one outcome of each onboarding."""
    results = route.gather(count, seconds)
    found: dict[str, OnboardingResult] = {}
    for result in results:
        assert isinstance(result, OnboardingResult)
        assert result.onboarding_id is not None
        assert result.onboarding_id not in found, "an onboarding with two outcomes"
        found[result.onboarding_id] = result
    return found


def assert_each_thing_once(house: House, accounts: int) -> None:
    """The endpoint's own word: no account, person or bank account twice, no token made or spent twice."""
    book = house.ledger()
    assert {kind: book["objects"][kind] for kind in OBJECTS} == {kind: n * accounts for kind, n in OBJECTS.items()}
    assert book["uses"]["tokens_used_more_than_once"] == []
    assert book["uses"]["total"] == STEPS * accounts
    assert book["tokens_created"] == STEPS * accounts
    assert book["tokens_by_idempotency_key"]["max"] == 1


DEATHS = (
    # How a call is held, the call, and the tokens that are spent by then: each moment meets an account of its own.
    ("hang_after", "/v1/tokens", 0),  # a token is made, nobody has heard of it
    ("hang", "/v1/accounts", 0),  # the account is not yet made
    ("hang_after", "/v1/accounts", 1),  # it is made, nobody has heard of it
    ("hang_after", "/v1/accounts/:id/persons", 2),
    ("hang", "/v1/accounts/:id/persons/:id", 3),
    ("hang_after", "/v1/accounts/:id/external_accounts", STEPS - 1),
    ("hang_after", "/v1/accounts/:id", STEPS),  # all is done, and not all of it noted
)


def test_a_worker_killed_at_each_step_of_an_account_leaves_nothing_undone_and_makes_nothing_twice(house: House) -> None:
    route, accounts = house.route(), len(DEATHS)
    script = [{"kind": kind, "path": path, "method": "POST"} for kind, path, _ in DEATHS]
    house.http.post("/_faults", json={"script": script})
    send(house, route, (document(f"killed-{at}") for at in range(accounts)))
    worker = house.worker(role="onboard")
    moment = sum(spent for *_, spent in DEATHS)
    until(lambda: house.ledger()["uses"]["total"] == moment and not house.http.get("/_faults").json()["script"], "all")
    assert route.look() == 0
    worker.kill()
    with house.working(role="onboard"):
        results = outcomes(route, accounts)
        house.until_all_is_done()
    assert [result for result in results.values() if not result.complete] == []
    assert all(result.deliveries >= 2 for result in results.values()), "the kill met each of them"
    assert {len(result.persons) for result in results.values()} == {PERSONS}
    assert_each_thing_once(house, accounts)
    assert house.broker.take("dead-letters") == []


NOTED = re.compile(
    hashlib.sha1(Path(on_redis.__file__).with_name("onboarding_note.lua").read_bytes()).hexdigest().encode()
)
"""How it looks on a line that something is noted of a step: its token, and then that it is done."""


def moments(opened: Scene, lines: Callable[[], Lines]) -> Iterator[tuple[Lines, Line, Trap]]:
    """Each moment at which a worker can die around its notes and its outcome, on lines of its own."""
    notes = [(1, False), (1, True), (2, False), (2, True), (STEPS, True), (2 * STEPS, True)]
    for nth, after in notes:
        own = lines()
        yield own, own.store, Trap(NOTED, nth=nth, after=after)
    for step in ("answered, not recorded", "recorded", "about to tell", "told, not acknowledged"):
        own = lines()
        yield own, *step_traps(opened, own)[step]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["embedded", "rabbitmq"])
def test_a_worker_killed_before_and_after_each_note_and_before_and_after_telling_makes_nothing_twice(
    kind: BrokerKind, tmp_path: Path
) -> None:
    one_each = CONFIGURATION.replace("[worker]\n", "[worker]\nconcurrency = 1\n")
    with scene(tmp_path / "house", kind, seed=30, configuration=one_each) as opened, ExitStack() as stack:
        house, route = opened.house, opened.house.route()

        def lines() -> Lines:
            return stack.enter_context(closing(Lines(opened)))

        dying = [(opened.hire(lines=own), line.set_trap(trap)) for own, line, trap in moments(opened, lines)]
        opened.until_ready(*(worker for worker, _ in dying))
        send(house, route, (document(f"noted-{at}") for at in range(len(dying))))  # one for each of them
        for worker, trap in dying:
            assert trap.sprung.wait(60.0), "a moment that never came"
            worker.kill()
        opened.staff(2)
        results = outcomes(route, len(dying))
        house.until_all_is_done()
        assert [result for result in results.values() if not result.complete] == []
        assert_each_thing_once(house, len(dying))
        assert house.broker.take("dead-letters") == []
        opened.dismiss()


def test_many_accounts_at_once_through_kills_and_lock_time_outs_are_made_once(house: House) -> None:
    accounts = 20
    route = house.route()
    wish = {"lock_timeout": 0.02, "reset_after": 0.015, "error_502_html_after": 0.015, "error_503": 0.01}
    house.http.post("/_faults", json=wish)
    ids = send(house, route, (document(f"seller-{at}") for at in range(accounts)))
    for calls in (40, 160):
        worker = house.worker()
        until(lambda calls=calls: house.ledger()["calls"]["total"] >= calls, f"{calls} calls")  # type: ignore[misc]
        worker.kill()
    with house.working(processes=2):
        results = outcomes(route, accounts)
        house.until_all_is_done()
    assert set(results) == set(ids)
    assert [result for result in results.values() if not result.complete] == []
    assert_each_thing_once(house, accounts)
    assert house.ledger()["calls"]["replayed"] > 0, "somebody died with an answer nobody had read"


def test_whatever_writes_to_one_account_at_the_same_time_takes_turns(house: House) -> None:
    """Messages about it, sent three times each, beside orders for its bank accounts, its people and itself."""
    accounts, route = 3, house.route()
    documents = [document(f"calm-{at}") for at in range(accounts)]
    with house.working(processes=2):
        send(house, route, documents)
        made = outcomes(route, accounts)
        more = [{**each, "persons": [*each["persons"], *extra_persons()]} for each in documents]
        send(house, route, more * 3)
        orders = [order for result in made.values() for order in orders_about(result, route)]
        house.send(orders)
        results = route.gather(accounts + 3 * len(more) + len(orders), 60.0)
        house.until_all_is_done()
    assert [result for result in results if not result.ok] == []
    book = house.ledger()
    assert book["per_object_concurrent_writes_peak"] == 1
    assert (book["objects"]["account"], book["objects"]["person"]) == (accounts, accounts * (PERSONS + 2))
    assert book["uses"]["max_per_token"] == 1


def extra_persons() -> list[dict[str, Any]]:
    return [{"reference": f"extra-{at}", "person": {"first_name": "W", "last_name": "Q"}} for at in range(2)]


def orders_about(result: OnboardingResult, route: Route) -> list[Order]:
    """One of everything that can be written to an account that is there."""
    account, person = str(result.account), result.persons["p0"]
    to = {"platform": "main", "reply_to": route.name}
    company = AccountRequest(company=Company(phone="+15555550123"))
    return [
        Order(cargo.bank_account(), attach=ExternalAccount(account=account), **to),  # type: ignore[arg-type]
        Order(cargo.pii(), attach=PersonUpdate(account=account, person=person, role="id_number"), **to),  # type: ignore[arg-type]
        Order(company, attach=AccountUpdate(account=account), **to),  # type: ignore[arg-type]
    ]


def test_a_corrected_document_goes_on_where_the_first_one_failed(house: House) -> None:
    route = house.route()
    wrong = document("corrected", external_accounts=[])
    bank = cargo.bank_account().model_dump(exclude_none=True)
    wrong["external_accounts"] = [
        {"reference": "bank", "bank_account": {**bank, "account_number": cargo.UNKNOWN_ACCOUNT}}
    ]
    with house.working(role="onboard"):
        send(house, route, [wrong])
        (first,) = route.gather(1)
        assert isinstance(first, OnboardingResult)
        assert not first.complete
        assert first.failure is not None
        assert (first.failure.code, first.failure.param) == ("account_number_invalid", "bank_account[account_number]")
        send(house, route, [document("corrected")])
        second = next(result for result in route.gather(2) if result != first)
    assert isinstance(second, OnboardingResult)
    assert second.complete
    assert second.account == first.account
    assert [step.step for step in second.steps if not step.earlier] == ["external_account:bank"]
    assert second.requirements is not None
    assert not any(due.startswith("representative") for due in second.requirements.currently_due)
    assert_each_thing_once(house, 1)


def test_what_is_made_is_remembered_for_a_year(house: House) -> None:
    """Sent again the next month, the same reference must not be a second account."""
    route = house.route()
    with house.working(role="onboard"):
        send(house, route, [{"reference": "remembered", "account": {"country": "US", "type": "custom"}}])
        assert outcomes(route, 1)["remembered"].complete
    with Redis.from_url(connecting.store_url(house.producer.configuration)) as store:
        left = store.ttl("tokenferry:onboarding:main:test:remembered")
    assert 364 * 86_400 < int(left) <= 365 * 86_400


def test_an_account_can_carry_its_users_own_acceptance_beside_a_legal_entity_in_a_token(house: House) -> None:
    route = house.route()
    own = document("own-terms")
    own["account"]["tos_acceptance"] = {"date": 1_700_000_000, "ip": "192.0.2.7", "user_agent": "Example/1.0"}
    del own["legal_entity"]["tos_shown_and_accepted"]
    with house.working(role="onboard"):
        send(house, route, [own])
        (result,) = outcomes(route, 1).values()
    assert result.complete, result
    assert [step.step for step in result.steps][:2] == ["account", "legal_entity"]
    made = house.look(f"/v1/accounts/{result.account}")
    assert made["tos_acceptance"]["ip"] == "192.0.2.7"
    assert made["tos_acceptance"]["date"] == 1_700_000_000
    assert made["business_type"] == "company"
    assert_each_thing_once(house, 1)


def test_the_command_makes_a_file_of_accounts_and_run_again_makes_nothing_twice(house: House, tmp_path: Path) -> None:
    good = [document(f"file-{at}") for at in range(4)]
    lines = [*good, document("file-2"), {**document("nameless"), "persons": [{"reference": "p", "person": {}}]}]
    (tmp_path / "accounts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    with house.working(role="onboard"):
        summary = command(house, tmp_path, "first", code=1)
        assert (summary["complete"], summary["refused"], summary["unfinished"]) == (4, 2, 0)
        assert summary["steps"] == {"done": 4 * STEPS, "done_earlier": 0, "failed": 0}
        again = command(house, tmp_path, "again", code=1)
        assert again["steps"] == {"done": 4 * STEPS, "done_earlier": 4 * STEPS, "failed": 0}
    assert_each_thing_once(house, 4)
    told = [json.loads(line) for line in (tmp_path / "first.jsonl").read_text().splitlines()]
    assert {line["key"]: line["status"] for line in told} == {f"file-{at}": "complete" for at in range(4)}
    rejects = (tmp_path / "first.csv").read_text()
    assert "5,file-2,document.reference," in rejects
    assert "6,nameless," in rejects


def command(house: House, folder: Path, name: str, *, code: int) -> dict[str, Any]:
    """Run `tokenferry onboard` on the file in *folder*; its summary."""
    outputs = ["--results", str(folder / f"{name}.jsonl"), "--rejects", str(folder / f"{name}.csv")]
    options = ["--platform", "main", "--config", str(house.folder / "tokenferry.toml"), "--json", "--quiet"]
    arguments = ["onboard", str(folder / "accounts.jsonl"), *outputs, *options]
    program = house.start([sys.executable, "-m", "tokenferry.cli", *arguments], f"onboard-{name}")
    assert program.process.wait(60) == code, program.said()
    summary: dict[str, Any] = json.loads(program.said().splitlines()[-1])
    return summary


def test_nothing_of_a_document_is_readable_anywhere(house: House, tmp_path: Path) -> None:
    route = house.route()
    pieces: list[bytes] = []
    bank = cargo.bank_account().model_dump(exclude_none=True)
    refused = {"external_accounts": [{"bank_account": {**bank, "account_number": cargo.UNKNOWN_ACCOUNT}}]}
    ids = send(house, route, [document("quiet-1"), document("quiet-2", **refused)])
    pieces += house.broker.contents()  # at rest in the queue
    house.http.post("/_faults", json={"error_500": 0.1, "truncated_json": 0.1})
    worker = house.worker(role="onboard")
    until(lambda: house.ledger()["calls"]["total"] >= 6, "calls under way")
    pieces += house.broker.contents()
    worker.kill()
    house.http.delete("/_faults")
    (tmp_path / "accounts.jsonl").write_text(json.dumps(document("quiet-3")) + "\n{oops}\n")
    with house.working(role="onboard"):
        results = outcomes(route, len(ids))
        command(house, tmp_path, "quiet", code=1)
        house.until_all_is_done()
        pieces += house.broker.contents()
    assert results["quiet-1"].complete
    assert not results["quiet-2"].complete
    pieces += [*house.written(), *route.bodies]
    pieces += [path.read_bytes() for path in tmp_path.iterdir() if path.name != "accounts.jsonl"]
    assert found([*SECRETS, cargo.UNKNOWN_ACCOUNT], pieces) == set()
    assert found(["file_that_is_not_there", "quiet-1"], pieces) == {"quiet-1"}, "the search works"
