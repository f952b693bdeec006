"""Of what is set aside, only what cannot carry a verification code is kept, and never more than a queue can take."""

from __future__ import annotations

import base64
import hmac
import json
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
from conftest import KeyFolder

from tokenferry import CardRequest, CvcUpdateRequest, Order
from tokenferry.broker.publishing import BrokerUnavailable, Outgoing, Publisher
from tokenferry.configuration import Configuration
from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.codes import Code
from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES
from tokenferry.contract.queues import MOST_NOTES
from tokenferry.contract.targets import CustomerCreate
from tokenferry.contract.work_messages import Refused
from tokenferry.producer import Sealer
from tokenferry_worker.dead_letters.quarantine import LOG_EVERY, Quarantine, QuarantineLevel
from tokenferry_worker.dead_letters.record import FOREIGN, DeadLetter, argument
from tokenferry_worker.dead_letters.retention import keep, redated, retained
from tokenferry_worker.engine.consumer import ASIDE_AGAIN, CarefulConsumer
from tokenferry_worker.engine.engine import Engine, EngineApp
from tokenferry_worker.health.set_aside import SetAsideCounts
from tokenferry_worker.health.vitals import Vitals
from tokenferry_worker.on_redis.store import ServerClock

from .standins import NOW, FlakyPublisher, quarantine_of

NUMBER: Final = "4242424242424242"
REQUESTS: Final = {
    "cvc": CardRequest(number=NUMBER, exp_month=12, exp_year=2044, cvc="987"),
    "lane": CardRequest(number=NUMBER, exp_month=12, exp_year=2044),
    "cvc_update": CvcUpdateRequest(cvc="987"),
}
Seal = Callable[..., str]


@pytest.fixture
def seal(key_folder: KeyFolder) -> Seal:
    keys = {"recipient": key_folder.recipient, "producer_signing_key": key_folder.producer}
    sealer = Sealer(Configuration.model_validate({"keys": keys, "platforms": {"main": {}}}))

    def sealed(request: Any = REQUESTS["lane"], lane: Any = "bulk") -> str:
        order = Order(request, platform="main", request_id="req-1", lane=lane)
        return str(json.loads(sealer.message(order)[1].body)[0][0])

    return sealed


def an_order(sealed: str) -> str:
    """An order to attach, as somebody writes it who does not care for our models."""
    order: dict[str, Any] = {
        "attach_id": "req-1",
        "request_id": "req-1",
        "token": "tok_1",
        "kind": "card",
        "platform": "main",
        "target": CustomerCreate(email="ada@example.com").model_dump(),
        "token_created_at": 1,
        "attach_before": 2,
        "signer_id": "worker-1",
        "sealed": sealed,
    }
    return json.dumps({"request": order, "signature": "c2lnbmVk"})


def with_another_header(sealed: str) -> str:
    """Two headers, of which a parser shows the second: one of a bulk request."""
    header = json.loads(sealed)["header"] | {"lane": "bulk", "kind": "card"}
    return f'{sealed[:-1]}, "header": {json.dumps(header)}}}'


WRAPPINGS: Final[dict[str, Callable[[str], str | bytes]]] = {
    "plain": str,
    "task": lambda sealed: json.dumps([[sealed], {}, {}]),
    "bytes": str.encode,
    "broken bytes": lambda sealed: sealed.encode() + b"\xff",
    "more fields": lambda sealed: json.dumps({**json.loads(sealed), "extra": 1}),
    "trailing byte": lambda sealed: sealed + "}",
    "truncated": lambda sealed: sealed[:-2],
    "two arguments": lambda sealed: json.dumps([[sealed, "x"], {}, {}]),
    "keyword": lambda sealed: json.dumps([[], {"body": sealed}, {}]),
    "beside a harmless one": lambda sealed: json.dumps([["{}"], {"body": sealed}, {}]),
    "JSON in JSON": lambda sealed: json.dumps(json.dumps(sealed)),
    "list": lambda sealed: f"[{sealed}]",
    "byte order mark": lambda sealed: "\ufeff" + sealed,
    "nested": lambda sealed: json.dumps({"body": {"body": sealed}}),
    "upper case": lambda sealed: sealed.replace('"realtime"', '"REALTIME"'),
    "second header": lambda sealed: f'{sealed[:-1]}, "header": {{"lane": "bulk"}}}}',
    "second whole header": with_another_header,
    "order": an_order,
    "order in a task": lambda sealed: json.dumps([[an_order(sealed)], {}, {}]),
}


KEY: Final = b"k" * 32


@pytest.mark.parametrize("wrapped", WRAPPINGS)
@pytest.mark.parametrize("request_", REQUESTS)
def test_what_may_carry_a_verification_code_is_not_kept_however_it_is_wrapped(
    seal: Seal, wrapped: str, request_: str
) -> None:
    sealed = seal(REQUESTS[request_], "realtime")
    body = WRAPPINGS[wrapped](sealed)
    kept = retained(body, "not ours", at=NOW, key=KEY)
    ciphertext = json.loads(sealed)["ciphertext"]
    assert not any(ciphertext[at : at + 12] in kept for at in range(0, len(ciphertext) - 12, 12))
    raw = body if isinstance(body, bytes) else body.encode()
    said = json.loads(kept)
    assert (said["reason"], said["at"], said["message"]) == ("not ours", int(NOW * 1000), "")
    assert (said["bytes"], said["hmac"]) == (len(raw), hmac.digest(KEY, raw, "sha256").hex())


def test_without_a_key_there_is_no_hash_that_could_be_tried() -> None:
    assert json.loads(retained(NUMBER, "not ours", at=NOW)).keys() == {"reason", "at", "bytes", "clear", "message"}


@pytest.mark.parametrize("wrapped", ["plain", "task", "bytes", "more fields"])
def test_its_header_is_kept_where_it_is_one_so_that_it_can_be_told_which_request_it_was(
    seal: Seal, wrapped: str
) -> None:
    letter = DeadLetter.read(retained(WRAPPINGS[wrapped](seal(REQUESTS["cvc"], "realtime")), "not ours", at=NOW))
    assert (letter.id, letter.lane, letter.message) == ("req-1", "realtime", "")


@pytest.mark.parametrize("wrapped", ["plain", "task", "bytes", "order", "order in a task"])
def test_what_is_sealed_and_can_carry_none_is_kept_as_it_came(seal: Seal, wrapped: str) -> None:
    sealed = seal()
    letter = DeadLetter.read(retained(WRAPPINGS[wrapped](sealed), "not ours", at=NOW))
    assert json.loads(sealed)["ciphertext"] in letter.message
    assert letter.id == "req-1"


def test_of_a_task_only_its_argument_is_kept(seal: Seal) -> None:
    body = json.dumps([[seal()], {"body": seal(REQUESTS["cvc"], "realtime")}, {}])
    assert DeadLetter.read(retained(body, "not ours", at=NOW)).message == json.loads(body)[0][0]


PLAINTEXT: Final[dict[str, str | bytes]] = {
    "keywords of a task": json.dumps([[], {"number": NUMBER, "cvc": "987"}, {}]),
    "an argument of a task": json.dumps([[json.dumps({"number": NUMBER, "cvc": "987"})], {}, {}]),
    "form": f"card[number]={NUMBER}&card[cvc]=987",
    "with blanks": "4242 4242 4242 4242",
    "full width": "\uff14\uff12" * 8,
    "bytes": f"number={NUMBER}".encode() + b"\xff",
    "code alone": '{"cvc": "987"}',
    "number as a name": json.dumps({NUMBER: "x"}),
    "base64": base64.b64encode(NUMBER.encode()).decode(),
}


@pytest.mark.parametrize("body", PLAINTEXT.values(), ids=PLAINTEXT)
def test_nothing_readable_rests_and_clear_text_is_marked(body: str | bytes) -> None:
    kept = keep(body, "not an envelope", at=NOW, key=KEY)
    assert (kept.sealed, kept.clear, json.loads(kept.record)["clear"]) == (False, True, True)
    assert not any(secret in kept.record for secret in (NUMBER, "987", "4242 4242"))


def test_names_in_json_show_who_sent_it_where_they_are_words() -> None:
    said = json.loads(retained(json.dumps({"number": 1, "a1": 2, "x y": [{"order_id": 3}]}), "not ours", at=NOW))
    assert said["names"] == ["number", "order_id"]


@pytest.mark.parametrize("hidden", [NUMBER * 40, "x" * 700, "short"])
def test_text_in_the_place_of_a_ciphertext_is_not_kept(seal: Seal, hidden: str) -> None:
    forged = {**json.loads(seal()), "ciphertext": base64.b64encode(hidden.encode()).decode()}
    kept = retained(json.dumps(forged), "not signed by a known producer", at=NOW)
    assert json.loads(kept)["message"] == ""
    assert forged["ciphertext"][:40] not in kept


@pytest.mark.parametrize("metadata", [{"note": NUMBER}, {"cvc": "987"}, {"note": "cvc 987"}])
def test_an_order_with_a_secret_in_clear_is_not_kept(seal: Seal, metadata: dict[str, str]) -> None:
    order = json.loads(an_order(seal()))
    order["request"]["target"]["metadata"] = metadata
    kept = retained(json.dumps(order), "not signed by a known signer", at=NOW)
    assert json.loads(kept)["message"] == ""
    assert not any(secret in kept for secret in (NUMBER, "987"))


def test_a_record_that_somebody_else_wrote_is_not_believed(seal: Seal) -> None:
    for message in (f"number={NUMBER}", seal(REQUESTS["cvc"], "realtime")):
        forged = json.dumps({"reason": "not ours", "at": None, "message": message, "note": NUMBER})
        kept = redated(forged, at=NOW)
        assert NUMBER not in kept
        assert json.loads(kept)["message"] == ""


def test_an_order_may_not_bring_a_request_that_may_carry_one(seal: Seal) -> None:
    order = json.loads(an_order(seal()))["request"]
    assert AttachRequest.model_validate(order).sealed is not None
    for sealed in (seal(REQUESTS["cvc_update"], "realtime"), seal(REQUESTS["lane"], "realtime")):
        with pytest.raises(ValueError, match=r"sealed\n.*may carry a card verification code") as refused:
            AttachRequest.model_validate({**order, "sealed": sealed})
        assert sealed[:20] not in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [b"\xff" * (MAX_ENVELOPE_BYTES + 1), "x" * (MAX_ENVELOPE_BYTES + 1), "\u2603" * 200_000],
    ids=["bytes", "text", "not ASCII"],
)
def test_of_what_is_longer_than_any_message_of_ours_the_length_is_kept(body: str | bytes) -> None:
    kept = retained(body, "undecodable message", at=NOW, key=KEY)
    raw = body if isinstance(body, bytes) else body.encode()
    assert len(kept) < 400
    assert json.loads(kept)["bytes"] == len(raw)


def test_another_date_changes_nothing_else(seal: Seal) -> None:
    history = [{"at": 1, "status": 503, "code": "api_error"}]
    dead = retained(seal(), Code.ATTEMPTS_EXHAUSTED, at=NOW, outcome_id="req-1:token:2", attempts=8, history=history)
    quarantined = retained(seal(REQUESTS["cvc"], "realtime"), "not ours", at=NOW)
    for letter in (dead, quarantined):
        assert json.loads(redated(letter, at=NOW + 60)) == json.loads(letter) | {"at": int((NOW + 60) * 1000)}


def test_what_has_never_been_dated_becomes_a_note(seal: Seal) -> None:
    letter = DeadLetter.read(redated(json.dumps([[seal()], {}, {}]), at=NOW))
    assert (letter.id, letter.reason, letter.at) == ("req-1", FOREIGN, int(NOW * 1000))
    assert DeadLetter.read(redated(seal(REQUESTS["cvc"], "realtime"), at=NOW)).message == ""


# -- the argument of a task body


def test_the_argument_of_our_own_message_is_the_envelope() -> None:
    assert argument(Outgoing.task("q", "task", "id-1", '{"a": "é"}').body) == '{"a": "é"}'
    assert argument(Outgoing.task("q", "task", "id-1", "x").body) == "x"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "not json",
        "[]",
        "{}",
        "null",
        "7",
        "[[], {}, {}]",
        '[["a", "b"], {}, {}]',
        "[[7], {}, {}]",
        '[{"a": 1}, {}, {}]',
        '["ab", {}, {}]',
        '[["a"], {}]',
        "[null, {}, {}]",
        "[" * 100_000,
    ],
)
def test_a_message_of_another_shape_is_taken_whole(body: str) -> None:
    assert argument(body) == body


# -- the consumer


class Reception(CarefulConsumer):
    """What a consumer needs to read a message and to set it aside, and the message."""

    def __init__(
        self,
        *refusals: Exception,
        queue: str = "attach.bulk.main",
        body: bytes = b"not ours",
        hand_over: Callable[[Any], None] = lambda _: None,
    ) -> None:
        self.publisher = FlakyPublisher(refusals=list(refusals))
        self.did: list[str] = []
        self.due: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        self.handed: list[Any] = []
        self.hand_over = hand_over
        self.message = SimpleNamespace(
            body=body,
            headers={"task": "ours", "id": "req-1", "eta": "2098-01-01", "shadow": "another", "timelimit": 5},
            properties={"reply_to": "results.evil", "priority": 255},
            content_type="application/json",
            content_encoding="utf-8",
            delivery_info={"routing_key": queue},
            ack_log_error=lambda *_: self.did.append("acknowledged"),
            reject_log_error=lambda *_: self.did.append("given back"),
        )
        self.pool = SimpleNamespace(taken=Counter(), turns=0, tasks={"ours"}, is_running=True, soon=lambda call: call())
        self.app = EngineApp(
            Engine(
                open_handlers=lambda: nullcontext({}),
                publisher=lambda: cast("Publisher", self),
                quarantine=quarantine_of(self.publisher),
                now=lambda: NOW,
                vitals=Vitals("all"),
                grace_seconds=0.0,
            )
        )
        self.timer = SimpleNamespace(call_after=lambda *call: self.due.append(call))
        self.connection_errors = (OSError, KeyError)  # as on Redis
        self.strategies = {"ours": self._strategy}
        self.on_task_message: set[Any] = set()
        self.restart_count, self._maximum_prefetch_restored = 0, True

    def _strategy(self, message: Any, *_: Any) -> None:
        self.handed.append(message)
        self.hand_over(message)

    def publish(self, message: Any) -> None:
        self.publisher.submit(message).result()

    def receive(self) -> None:
        """As Celery's loop does it."""
        self.create_task_handler()(self.message)

    @property
    def kept(self) -> list[dict[str, Any]]:
        return [json.loads(message.body) for message in self.publisher.published]


OURS: Final = b'[["an envelope"], {}, {"callbacks": [{"task": "another"}], "chord": 5}]'


def test_celery_sees_what_was_read_and_no_header_of_the_publisher() -> None:
    reception = Reception(body=OURS)
    reception.receive()
    (handed,) = reception.handed
    assert handed.headers == {"task": "ours", "id": "req-1", "ignore_result": True}
    assert (handed.body, handed.payload) == ("an envelope", (["an envelope"], {}, {}))
    assert (handed.properties, handed.delivery_info) == ({}, {"exchange": "", "routing_key": "attach.bulk.main"})
    assert (reception.kept, reception.did) == ([], [])
    assert (reception.message.body, reception.message.headers) == (b"", {}), "held no longer than it is needed"


def test_what_cannot_be_handed_over_is_set_aside(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Any) -> None:
        raise KeyError(NUMBER)

    reception = Reception(body=OURS, hand_over=fail)
    reception.receive()
    (kept,) = reception.kept
    assert (kept["reason"], kept["message"], kept["bytes"]) == ("invalid task message", "", len("an envelope"))
    assert reception.did == ["acknowledged"]
    assert "KeyError" in caplog.text
    assert NUMBER not in caplog.text


@pytest.mark.parametrize("error", [OSError("the connection is lost"), RuntimeError("the loop is closed")])
def test_what_is_no_fault_of_a_message_ends_the_loop_and_loses_no_message(error: Exception) -> None:
    def fail(_: Any) -> None:
        reception.pool.is_running = not isinstance(error, RuntimeError)
        raise error

    reception = Reception(body=OURS, hand_over=fail)
    with pytest.raises(type(error)):
        reception.receive()
    assert (reception.kept, reception.did) == ([], [])


def test_what_the_consumer_sets_aside_is_dated_by_the_store_and_said_once_it_is_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reception = Reception()
    reception.receive()
    (kept,) = reception.kept
    assert (kept["message"], kept["at"]) == ("", int(NOW * 1000))
    assert (reception.did, reception.due) == (["acknowledged"], [])
    assert "moved to quarantine" in caplog.text


def test_of_what_the_transport_has_refused_a_note_is_kept() -> None:
    reception = Reception()
    reception.message.refused, reception.message.length = Refused("longer than any message of ours"), 60_000_000
    reception.receive()
    (kept,) = reception.kept
    assert kept == {
        "reason": "longer than any message of ours",
        "at": int(NOW * 1000),
        "message": "",
        "bytes": 60_000_000,
    }
    assert DeadLetter.read(json.dumps(kept)).reason == "longer than any message of ours"


def test_a_sealed_message_that_the_broker_refuses_gets_a_pause_and_is_not_said_to_be_moved(
    seal: Seal, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reception = Reception(BrokerUnavailable("away", maybe_sent=False), body=json.dumps([[seal()], {}, {}]).encode())
    reception.message.headers = {"task": "another", "id": "req-1"}
    reception.receive()
    assert reception.did == [], "it is held, for a while"
    assert "; moved to" not in caplog.text
    ((seconds, give_back, arguments),) = reception.due
    give_back(*arguments)
    assert (seconds, reception.did, reception.kept) == (ASIDE_AGAIN, ["given back"], [])


def test_a_note_without_content_is_not_waited_for() -> None:
    reception = Reception(BrokerUnavailable("away", maybe_sent=False))
    reception.receive()
    assert (reception.did, reception.kept, reception.due) == (["acknowledged"], [], [])


# -- the quarantine


class Moments:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_reasons_are_counted_each_and_said_once_per_interval(caplog: pytest.LogCaptureFixture) -> None:
    counts, clock, publisher = SetAsideCounts(), Moments(), FlakyPublisher()
    quarantine = Quarantine(lambda: publisher, counts, QuarantineLevel(1), clock=clock)
    for number in range(2_000):
        quarantine.put(b"x", "unknown task" if number % 2 else "not a task message", at=NOW, queue="q").result(0)
    assert len(caplog.records) == 1
    clock.now = LOG_EVERY
    quarantine.say()
    assert counts.by_reason == {"unknown task": 1_000, "not a task message": 1_000}
    assert len(caplog.records) == 2
    assert "1999 messages" in caplog.text
    assert len(publisher.published) == 2_000


def test_clear_text_is_an_alarm_that_names_the_queue_and_no_value(caplog: pytest.LogCaptureFixture) -> None:
    counts, publisher = SetAsideCounts(), FlakyPublisher()
    quarantine = Quarantine(lambda: publisher, counts, QuarantineLevel(1))
    quarantine.put(f"number={NUMBER}", "not an envelope", at=NOW, queue="tokenize.bulk.main").result(0)
    (alarm,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "clear text arrived in tokenize.bulk.main" in alarm.getMessage()
    assert counts.clear_text == 1
    assert NUMBER not in caplog.text + publisher.published[0].body


def test_beyond_the_bound_of_notes_garbage_is_counted_and_dropped() -> None:
    counts, publisher, level = SetAsideCounts(), FlakyPublisher(), QuarantineLevel(1)
    quarantine = Quarantine(lambda: publisher, counts, level)
    level.measured(MOST_NOTES - 1, 0)
    for _ in range(3):
        quarantine.put(b"x", "unknown task", at=NOW, queue="q").result(0)
    assert (len(publisher.published), counts.dropped, counts.by_reason["unknown task"]) == (1, 2, 3)


def test_sealed_messages_have_a_bound_of_their_own_and_beyond_it_only_a_note_is_kept(seal: Seal) -> None:
    counts, publisher, level = SetAsideCounts(), FlakyPublisher(), QuarantineLevel(1)
    quarantine = Quarantine(lambda: publisher, counts, level)
    sealed = seal()
    level.measured(MOST_NOTES + 1, 1_048_576 // 2 - 100)
    assert not level.is_half_full
    quarantine.put(sealed, "not signed by a known producer", at=NOW, queue="q").result(0)
    assert level.is_half_full, "health fails"
    level.measured(10, 1_048_576 - 100)
    quarantine.put(sealed, "not signed by a known producer", at=NOW, queue="q").result(0)
    assert [DeadLetter.read(message.body).message for message in publisher.published] == [sealed, ""]


def test_the_clock_is_asked_once_a_minute_and_goes_on_between() -> None:
    answers = iter([NOW, NOW + 1000.0])
    clock = ServerClock(lambda: next(answers))
    assert NOW <= clock() <= clock() < NOW + 500.0
