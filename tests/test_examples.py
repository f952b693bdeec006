"""The examples do what they say: with fakes as their readers would test them, and on a whole service."""

from __future__ import annotations

import ast
import csv
import importlib
import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any

import forking
import pytest
from django.test import Client
from fastapi.testclient import TestClient

import tokenferry
from tokenferry import BrokerUnavailable, CardRequest, CustomerCreate, Order, Results, StillRunning
from tokenferry.replies import Answer
from tokenferry.testing import (
    FakeAsyncProducer,
    FakeProducer,
    LocalService,
    MissingExtra,
    card,
    declined_card,
    local_service,
)
from tokenferry.testing.local import check_installed

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    """One file of the folder, loaded once."""
    full_name = f"examples_{name}"
    if full_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(full_name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[full_name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[full_name]


def typed_in(request: CardRequest, **more: str) -> dict[str, Any]:
    """What a browser sends of a card."""
    return {name: getattr(request, name) for name in ("number", "exp_month", "exp_year")} | more


def too_slow(order: Order) -> Answer:
    raise StillRunning(str(order.request_id), 20)


ADA = {"email": "ada@example.com"}
AWAY = BrokerUnavailable("the broker could not be reached", maybe_sent=False)


class TestFastApi:
    def ask(self, producer: FakeAsyncProducer, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        module = example("fastapi_app")
        module.app.dependency_overrides[module.producer_of] = lambda: producer
        answer = TestClient(module.app).post("/cards", json=body)
        assert body["number"] not in answer.text
        return answer.status_code, answer.json()

    def test_answers_with_the_customer(self) -> None:
        producer = FakeAsyncProducer()
        status, body = self.ask(producer, typed_in(card()) | ADA)
        assert (status, body["customer"]) == (200, "cus_fake_1")
        assert producer.sent[0].lane == "realtime"

    def test_says_that_a_card_is_declined(self) -> None:
        assert self.ask(FakeAsyncProducer(), typed_in(declined_card("lost_card")) | ADA)[1]["failure"] == "lost_card"

    @pytest.mark.parametrize("wrong", [{"number": "4242424242424241"}, {"exp_month": "x4242424242424241"}])
    def test_names_the_field_to_correct_and_never_its_value(self, wrong: dict[str, str]) -> None:
        status, body = self.ask(FakeAsyncProducer(), typed_in(card()) | ADA | wrong)
        assert status == 422
        assert any(field in name for name in body["problems"] for field in wrong)
        assert "4242424242424241" not in str(body)

    def test_tells_where_to_ask_again_when_it_takes_long(self) -> None:
        status, body = self.ask(FakeAsyncProducer(too_slow), typed_in(card()) | ADA)
        assert status == 202
        assert body["request_id"].startswith("req-")

    def test_is_503_when_the_broker_is_away(self) -> None:
        producer = FakeAsyncProducer()
        producer.fails_with = AWAY
        assert self.ask(producer, typed_in(card()) | ADA)[0] == 503


class TestDjango:
    def ask(self, producer: FakeProducer, fields: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        answer = example("django_app").tokenized(fields, "ada@example.com", producer)
        return answer.status_code, json.loads(answer.content)

    def test_answers_with_the_customer_a_decline_or_the_field_to_correct(self) -> None:
        assert self.ask(FakeProducer(), typed_in(card())) == (200, {"customer": "cus_fake_1"})
        assert self.ask(FakeProducer(), typed_in(declined_card())) == (402, {"failure": "generic_decline"})
        status, body = self.ask(FakeProducer(), {"number": "4242424242424242"})
        assert (status, list(body["problems"])) == (422, ["card"])
        assert self.ask(FakeProducer(too_slow), typed_in(card()))[0] == 202
        broken = FakeProducer()
        broken.fails_with = AWAY
        assert self.ask(broken, typed_in(card()))[0] == 503


class TestCelery:
    def test_a_task_that_runs_twice_sends_the_same_id(self) -> None:
        producer = FakeProducer()
        migrate = example("celery_app").migrate
        for _ in range(2):
            assert migrate.run("7", "acct_1", to=lambda: producer) == {"request_id": "seller-7-bank"}
        assert [order.request_id for order in producer.sent] == ["seller-7-bank"] * 2

    def test_a_broker_that_is_away_is_for_celery_to_repeat(self) -> None:
        producer = FakeProducer()
        producer.fails_with = AWAY
        with pytest.raises(BrokerUnavailable):
            example("celery_app").send_seller("7", "acct_1", to=lambda: producer)


def test_the_script_says_what_became_of_each_row() -> None:
    rows = [{"email": f"{at}@example.com", **typed_in(card)} for at, card in enumerate((card(), declined_card()))]
    rows.append({"email": "2@example.com", **typed_in(card()), "number": "4242424242424241"})
    lines = list(example("script").add_cards(rows, FakeProducer()))
    assert lines[:2] == ["0@example.com: cus_fake_1", "1@example.com: card_declined"]
    assert lines[2].startswith("2@example.com: not sent: card.number: does not pass the Luhn check")


@pytest.fixture(scope="module")
def service() -> Iterator[LocalService]:
    with local_service(popen=forking.start) as running:
        yield running


@pytest.fixture
def there(
    service: LocalService, in_folder: Callable[[Path], None], environment: MutableMapping[str, str]
) -> LocalService:
    """The service, in whose folder `Producer()` finds its configuration."""
    in_folder(service.folder)
    return service


class TestOnAWholeService:
    """The same programs, unchanged, with real workers."""

    def test_fastapi(self, there: LocalService) -> None:
        module = example("fastapi_app")
        module.app.dependency_overrides.clear()
        with TestClient(module.app) as client:
            body = client.post("/cards", json=typed_in(card()) | ADA).json()
            assert there.stripe(f"/v1/customers/{body['customer']}")["email"] == "ada@example.com"
            assert client.get(f"/cards/{body['request_id']}").json() == body
            assert client.get("/cards/req-of-others").status_code == 404

    def test_django(self, there: LocalService) -> None:
        module = example("django_app")
        sys.modules[module.__name__] = module
        answer = Client().post("/cards", typed_in(card()) | ADA, content_type="application/json")
        module.producer().close()
        assert there.stripe(f"/v1/customers/{answer.json()['customer']}")["email"] == "ada@example.com"

    def test_celery(self, there: LocalService) -> None:
        celery = example("celery_app")
        sent = celery.migrate.run("8", "acct_nobody")
        celery.close_producer()
        with Results(celery.ROUTE) as results:
            result = results.take(timeout=60)
        assert result is not None
        assert result.request_id == sent["request_id"] == "seller-8-bank"
        assert not result.ok  # there is no such account

    def test_script(self, there: LocalService, capsys: pytest.CaptureFixture[str]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, ["email", "number", "exp_month", "exp_year"])
        writer.writeheader()
        writer.writerow(ADA | typed_in(card()))
        Path("cards.csv").write_text(text.getvalue())
        assert example("script").main("cards.csv") == 0
        email, _, customer = capsys.readouterr().out.strip().partition(": ")
        assert there.stripe(f"/v1/customers/{customer}")["email"] == email

    def test_the_fakes_answer_as_the_service_does(self, there: LocalService) -> None:
        """Or tests with them would prove nothing."""
        with there.producer() as real:
            for request in (card(), declined_card("insufficient_funds")):
                for attach in (None, CustomerCreate()):
                    asked = [
                        producer.request(request, attach=attach, timeout=60)  # type: ignore[call-overload]
                        for producer in (real, FakeProducer())
                    ]
                    assert [shape(answer) for answer in asked] == [shape(asked[1])] * 2


def shape(answer: Answer) -> tuple[Any, ...]:
    failure = answer.failure and (answer.failure.code, answer.failure.decline_code, answer.failure.source)
    object_id = getattr(answer, "object_id", None)
    return type(answer), answer.ok, failure, object_id and object_id.partition("_")[0]


def test_the_helpers_load_in_a_producer_and_say_what_else_a_whole_service_needs() -> None:
    code = "import tokenferry.testing, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tokenferry_worker", "tokenferry_emulator", "celery", "starlette", "httpx"} & set(loaded)
    with pytest.raises(MissingExtra, match=r"pip install 'tokenferry\[worker,emulator\]'"):
        check_installed(["tokenferry_worker", "not_installed_here"])


def test_a_script_that_type_checkers_read_uses_every_public_name() -> None:
    """`make check` runs mypy on it, on these examples and on every Python block of the pages."""
    names = ast.parse((EXAMPLES.parent / "tests" / "typed" / "every_name.py").read_text())
    imported = {
        alias.name
        for node in names.body
        if isinstance(node, ast.ImportFrom) and node.module == "tokenferry"
        for alias in node.names
    }
    assert imported == set(tokenferry.__all__)


def test_type_checkers_read_the_names_that_are_there() -> None:
    stub = ast.parse(Path(tokenferry.__file__).with_suffix(".pyi").read_text())
    said = {
        alias.name: str(node.module) for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert said.keys() == set(tokenferry.__all__)
    for name, module in said.items():
        assert getattr(tokenferry, name) is getattr(importlib.import_module(module), name)
