"""The strict reading of a work message: what is ours is accepted, everything else has a reason, and nothing raises."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery
from e2e import hostile
from e2e.hostile import READ, SHAPES, STEERING, Hostile
from hypothesis import given
from hypothesis import strategies as st
from kombu import Connection, Queue

from tokenferry.broker.outgoing import Outgoing
from tokenferry.contract.envelope import MAX_ENVELOPE_BYTES
from tokenferry.contract.names import is_id
from tokenferry.contract.queues import MAX_MESSAGE_BYTES, TOKENIZE_TASK
from tokenferry.contract.work_messages import TOO_LONG, ListItem, Refused, WorkMessage, read_item, read_work

TASKS = {TOKENIZE_TASK}
PUBLISHED_BEFORE = json.dumps(
    {
        "body": "W1sie1wiaGVhZGVyXCI6IHt9fSJdLCB7fSwgeyJjYWxsYmFja3MiOiBudWxsLCAiZXJyYmFja3MiOiBudWxsLCAi"
        "Y2hhaW4iOiBudWxsLCAiY2hvcmQiOiBudWxsfV0=",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": "tokenferry.tokenize.v1",
            "id": "req-oefkdhbnmglcjaip",
            "root_id": "req-oefkdhbnmglcjaip",
            "parent_id": None,
            "group": None,
            "eta": None,
            "expires": None,
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": "(***)",
            "kwargsrepr": "{}",
            "ignore_result": True,
            "origin": "tokenferry",
        },
        "properties": {
            "correlation_id": "req-oefkdhbnmglcjaip",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "tokenize.bulk.main"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "9b0c8f4e-5d3a-4c7e-8a56-0d3d6d7a3b11",
        },
    }
).encode()
"""An item as version 0.1 has written it. Such items may be in a queue when workers are exchanged; never change it."""


def read(item: bytes) -> WorkMessage | Refused:
    """Both readings, as on Redis."""
    found = read_item(item)
    if isinstance(found, Refused):
        return found
    return read_work(found.headers, found.content_type, found.content_encoding, found.body, tasks=TASKS)


def test_what_the_version_before_has_published_is_still_accepted() -> None:
    assert read(PUBLISHED_BEFORE) == WorkMessage(TOKENIZE_TASK, "req-oefkdhbnmglcjaip", '{"header": {}}')


def test_what_our_producers_publish_is_accepted() -> None:
    message = Outgoing.task("tokenize.bulk.main", TOKENIZE_TASK, "req-1", '{"a": "é \\" [["}')
    found = read_work(dict(message.headers), "application/json", "utf-8", message.body.encode(), tasks=TASKS)
    assert found == WorkMessage(TOKENIZE_TASK, "req-1", '{"a": "é \\" [["}')


@pytest.mark.parametrize("options", [{}, {"countdown": 60, "expires": 1, "priority": 3, "shadow": "x", "retries": 2}])
def test_what_a_plain_celery_client_sends_is_accepted_and_its_options_have_no_effect(options: dict[str, Any]) -> None:
    app = Celery("plain", broker="memory://", set_as_current=False)
    with Connection("memory://") as connection:
        sent = app.send_task(TOKENIZE_TASK, ["an envelope"], queue="plain", connection=connection, **options)
        message = Queue("plain").bind(connection.default_channel).get(no_ack=True)
        body = message.body if isinstance(message.body, bytes) else message.body.encode()
        found = read_work(message.headers, message.content_type, message.content_encoding, body, tasks=TASKS)
        item = read(json.dumps(message._raw).encode())
    assert found == item == WorkMessage(TOKENIZE_TASK, sent.id, "an envelope")


@pytest.mark.parametrize("name", SHAPES)
def test_each_known_shape_has_its_reason(name: str) -> None:
    shape = SHAPES[name]
    found = read(shape.item("tokenize.bulk.main"))
    if len(shape.item("")) > MAX_MESSAGE_BYTES:
        assert shape.reason == TOO_LONG, "it is refused where it is taken, by its length alone"
    elif shape.reason == READ:
        assert isinstance(found, WorkMessage)
    else:
        assert found == Refused(shape.reason)


@pytest.mark.parametrize("name", STEERING)
def test_no_header_but_task_and_id_has_an_effect(name: str) -> None:
    shape = Hostile(READ, headers=hostile.headers(id="req-1", **STEERING[name]))
    assert read(shape.item("q")) == WorkMessage(TOKENIZE_TASK, "req-1", "x")


@pytest.mark.parametrize(
    "body", ['[ [\t"x"\n] , { } , {"a": [1, {}]} ] ', '[["x"],{},{}]', '[["\\u0078"], {}, {"callbacks": null}]']
)
def test_white_space_and_escapes_change_nothing(body: str) -> None:
    found = read_work(hostile.headers(), "application/json", "utf-8", body.encode(), tasks=TASKS)
    assert found == WorkMessage(TOKENIZE_TASK, "req-hostile", "x")


def test_an_argument_is_as_long_as_an_envelope_at_most() -> None:
    for length, accepted in ((MAX_ENVELOPE_BYTES, True), (MAX_ENVELOPE_BYTES + 1, False)):
        shape = Hostile("", body=hostile.body("x" * length))
        assert isinstance(read(shape.item("q")), WorkMessage) is accepted
    longest = Outgoing.task("q", TOKENIZE_TASK, "i" * 64, '{"a":"' + "x" * (MAX_ENVELOPE_BYTES - 8) + '"}')
    item = Hostile("", headers=dict(longest.headers), body=longest.body.encode()).item("tokenize.realtime." + "p" * 63)
    assert len(item) < 0.7 * MAX_MESSAGE_BYTES


def test_nothing_of_an_item_says_where_it_came_from_or_inflates_it() -> None:
    shape = Hostile(
        "",
        headers=hostile.headers(compression="zlib"),
        properties={"delivery_info": {"redelivered": 1, "routing_key": "another"}, "priority": 256, "reply_to": 5},
    )
    found = read_item(shape.item("q"))
    assert isinstance(found, ListItem)
    assert "compression" not in found.headers
    assert (found.redelivered, found.priority, found.reply_to) == (False, None, None)


@pytest.mark.parametrize(
    ("value", "right"),
    [
        *[(value, True) for value in ("req-1", "A_z-9", "x" * 64)],
        *[(value, False) for value in ("x" * 65, "", "a b", "x\n", "req\x1b[2J", "4242424242424242", 5, None, b"x")],
    ],
)
def test_an_id_is_one_that_may_stand_in_a_log(value: object, right: bool) -> None:
    assert is_id(value) is right


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(hostile.ODD),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(item=st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_item_at_all_makes_it_raise(item: bytes) -> None:
    assert isinstance(read_item(item), ListItem | Refused)


@given(headers=JSON, content_type=JSON, content_encoding=JSON, body=st.binary(max_size=300) | JSON)
def test_no_parts_at_all_make_it_raise(headers: Any, content_type: Any, content_encoding: Any, body: Any) -> None:
    assert isinstance(read_work(headers, content_type, content_encoding, body, tasks=TASKS), WorkMessage | Refused)


@pytest.mark.parametrize("seed", range(4))
def test_a_thousand_damaged_items_are_read_without_an_error(seed: int) -> None:
    for item in hostile.items(seed, 1000, "tokenize.bulk.main"):
        assert isinstance(read(item), WorkMessage | Refused)
