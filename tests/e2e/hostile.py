"""Messages that somebody may write who can write to a queue: whatever a library lets him, and whatever it does not.

The same for every run: a generator is seeded. None of them is signed, so none may lead to a call.
"""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import random
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import amqp

from tokenferry.contract.queues import ATTACH_TASK, TOKENIZE_TASK, attach_queue, onboard_queue, tokenize_queue

QUEUES: Final = (
    tokenize_queue("bulk", "main"),
    tokenize_queue("realtime", "main"),
    attach_queue("bulk", "main"),
    onboard_queue("main"),
)
EMBED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
NOT_A_TASK, UNKNOWN, INVALID = "not a task message", "unknown task", "invalid task message"
UNDECODABLE, TOO_LONG = "undecodable message", "longer than any message of ours"
READ: Final = "not an envelope"
"""What a worker says of a message that has passed the first reading: its argument is no envelope."""


def headers(**more: Any) -> dict[str, Any]:
    """Those of a Celery client, with others in their place; `...` leaves one out."""
    usual: dict[str, Any] = {"lang": "py", "task": TOKENIZE_TASK, "id": "req-hostile", "root_id": "req-hostile"}
    usual |= {"eta": None, "expires": None, "retries": 0, "timelimit": [None, None], "argsrepr": "(***)"}
    return {name: value for name, value in (usual | more).items() if value is not ...}


def body(argument: object = "x", keywords: object = None, embed: object = EMBED) -> bytes:
    """A Celery task body with one argument."""
    return json.dumps([[argument], keywords or {}, embed]).encode()


@dataclass(frozen=True)
class Hostile:
    """One message, and what becomes of it."""

    reason: str
    headers: Any = field(default_factory=headers)
    body: bytes = field(default_factory=body)
    content_type: Any = "application/json"
    content_encoding: Any = "utf-8"
    properties: Mapping[str, Any] = field(default_factory=dict)
    """On Redis, beside what kombu writes; `...` leaves one out."""

    def item(self, queue: str) -> bytes:
        """As an item of a Redis list."""
        usual = {
            "body_encoding": "base64",
            "delivery_tag": "tag",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
        }
        properties = {name: value for name, value in (usual | self.properties).items() if value is not ...}
        message = {
            "body": base64.b64encode(self.body).decode(),
            "headers": self.headers,
            "content-type": self.content_type,
            "content-encoding": self.content_encoding,
            "properties": properties,
        }
        return json.dumps(message).encode()

    @property
    def suits_amqp(self) -> bool:
        """Whether an AMQP client can write it at all: there a property has its type."""
        texts = isinstance(self.content_type, str | None) and isinstance(self.content_encoding, str | None)
        return isinstance(self.headers, dict) and texts and not self.properties

    def message(self) -> amqp.Message:
        """As a message for RabbitMQ."""
        known = {"content_type": self.content_type, "content_encoding": self.content_encoding}
        return amqp.Message(
            self.body,
            application_headers=self.headers,
            **{name: value for name, value in known.items() if value is not None},
        )


class Raw(amqp.Message):
    """A message with properties that no client library writes."""

    def __init__(self, properties: bytes) -> None:
        super().__init__(body())
        self.raw = properties

    def _serialize_properties(self) -> bytes:
        return self.raw


_MEGABYTE: Final = b"0" * 1_000_000

SHAPES: Final[dict[str, Hostile]] = {
    "no headers": Hostile(NOT_A_TASK, headers={}),
    "no id": Hostile(INVALID, headers=headers(id=...)),
    "id a list": Hostile(INVALID, headers=headers(id=["a"])),
    "id a dict": Hostile(INVALID, headers=headers(id={"a": 1})),
    "id with a forged line": Hostile(INVALID, headers=headers(id="x\nCRITICAL all keys stolen")),
    "id a card number": Hostile(INVALID, headers=headers(id="4000056655665556")),
    "task a list": Hostile(UNKNOWN, headers=headers(task=["a"])),
    "task a dict": Hostile(UNKNOWN, headers=headers(task={"a": 1})),
    "task of somebody else": Hostile(UNKNOWN, headers=headers(task="somebody.elses")),
    "Celery's accumulate": Hostile(UNKNOWN, headers=headers(task="celery.accumulate"), body=b"[[1],{},{}]"),
    "Celery's map": Hostile(UNKNOWN, headers=headers(task="celery.map")),
    "Celery's backend_cleanup": Hostile(UNKNOWN, headers=headers(task="celery.backend_cleanup"), body=b"[[],{},{}]"),
    "Celery's chord_unlock": Hostile(UNKNOWN, headers=headers(task="celery.chord_unlock")),
    "body [1,2]": Hostile(INVALID, body=b"[1,2]"),
    "body a number": Hostile(INVALID, body=b"5"),
    "body null": Hostile(INVALID, body=b"null"),
    "body an object": Hostile(INVALID, body=b"{}"),
    "body a text": Hostile(INVALID, body=b'"abc"'),
    "body nothing": Hostile(INVALID, body=b""),
    "body no UTF-8": Hostile(UNDECODABLE, body=b"\xff\xfe[]"),
    "body of protocol 1": Hostile(NOT_A_TASK, headers={}, body=b'{"task": [1], "id": "x", "args": [], "kwargs": {}}'),
    "two arguments": Hostile(INVALID, body=b'[["x", "y"], {}, {}]'),
    "a keyword": Hostile(INVALID, body=body(keywords={"body": "x"})),
    "argument a number": Hostile(INVALID, body=body(5)),
    "argument NaN": Hostile(INVALID, body=b"[[NaN], {}, {}]"),
    "half a surrogate pair": Hostile(INVALID, body=b'[["\\ud800"], {}, {}]'),
    "embed a text": Hostile(INVALID, body=body(embed="abc")),
    "100,000 brackets": Hostile(INVALID, body=b"[" * 100_000),
    "100,000 brackets beside the argument": Hostile(INVALID, body=b'[["x"], {}, {"a": ' + b"[" * 100_000),
    "half a megabyte of objects": Hostile(INVALID, body=b'[["x"], {}, {"a": [' + b"{}," * 120_000 + b"0]}]"),
    "100,000 brackets in the argument": Hostile(READ, body=body("[" * 100_000)),
    "pickle": Hostile(UNDECODABLE, body=b"\x80\x04K\x01.", content_type="application/x-python-serialize"),
    "yaml": Hostile(UNDECODABLE, body=b"- 1", content_type="application/x-yaml"),
    "no content type": Hostile(UNDECODABLE, content_type=None, content_encoding=None),
    "encoding rot13": Hostile(UNDECODABLE, content_encoding="rot13"),
    "encoding punycode": Hostile(UNDECODABLE, body=b"a" * 300_000, content_encoding="punycode"),
    "encoding a list": Hostile(UNDECODABLE, content_encoding=["x"]),
    "type a number": Hostile(UNDECODABLE, content_type=5),
    "headers a list": Hostile(UNDECODABLE, headers=[1, 2]),
    "headers a text": Hostile(UNDECODABLE, headers="abc"),
    "body no base64": Hostile(UNDECODABLE, properties={"body_encoding": "rot"}),
    "no properties of kombu": Hostile(
        READ, properties={"delivery_info": ..., "priority": ..., "delivery_tag": ..., "delivery_mode": ...}
    ),
    "delivery_info a text": Hostile(READ, properties={"delivery_info": "abc"}),
    "priority huge": Hostile(READ, properties={"priority": 10**30}),
    "priority a list": Hostile(READ, properties={"priority": [1]}),
    "reply_to": Hostile(READ, properties={"reply_to": "results.evil", "correlation_id": ["x"]}),
    "bzip2 bomb": Hostile(UNDECODABLE, headers=headers(compression="bzip2"), body=bz2.compress(_MEGABYTE) * 32),
    "zlib bomb": Hostile(UNDECODABLE, headers=headers(compression="zlib"), body=zlib.compress(_MEGABYTE * 32, 1)),
    "lzma bomb": Hostile(
        UNDECODABLE, headers=headers(compression="lzma"), body=lzma.compress(_MEGABYTE, preset=0) * 32
    ),
    "compression a list": Hostile(READ, headers=headers(compression=["zlib"])),
    "8 MB": Hostile(TOO_LONG, body=body("x" * 8_000_000)),
    "just too long": Hostile(TOO_LONG, body=body("x" * 524_288)),
    "as long as it may be": Hostile(TOO_LONG, body=body("x" * 380_000)),
    "300 KB of nothing": Hostile(INVALID, body=b" " * 300_000),
    "callbacks": Hostile(READ, body=body(embed={"callbacks": [{"task": TOKENIZE_TASK, "args": ["y"]}], "chord": 5})),
}
"""Each by its name, for one of our tasks on the queue of that task."""

STEERING: Final[dict[str, dict[str, Any]]] = {
    "expires in the past": {"expires": "2020-01-01T00:00:00+00:00"},
    "expires a number": {"expires": 5},
    "expires a list": {"expires": [5]},
    "eta in 70 years": {"eta": "2098-01-01T00:00:00+00:00"},
    "eta in the year 1": {"eta": "0001-01-01T00:00:00+00:00"},
    "eta a number": {"eta": 5},
    "timelimit a number": {"timelimit": 5},
    "timelimit of three": {"timelimit": [1, 2, 3]},
    "timelimit at once": {"timelimit": [0.001, 0.001]},
    "retries a text": {"retries": "many"},
    "shadow": {"shadow": "forged\nline"},
    "shadow a dict": {"shadow": {"a": 1}},
    "root_id a list": {"root_id": ["a"], "parent_id": {}, "group": {}, "group_index": "x"},
    "compression": {"compression": "zlib"},
    "unknown compression": {"compression": "nothing"},
    "stamps": {"stamps": {"a": 1}, "stamped_headers": ["a"], "replaced_task_nesting": "x"},
    "another header of everything": {"argsrepr": 5, "kwargsrepr": [], "origin": {}, "ignore_result": "x", "lang": []},
}
"""Headers that must not steer a signed request: each of them is served all the same."""

ODD: Final[tuple[Any, ...]] = (
    None, True, -1, 0, 5, 10**30, 0.5, "", "x", "utf-8", "base64", "zlib", "é\n\x00", "\ud800", "x" * 3000, [], ["a"],
    [None, None], [[[]]], {}, {"a": 1}, {"a": {"b": []}}, TOKENIZE_TASK, ATTACH_TASK, "celery.chord_unlock",
    "2020-01-01T00:00:00+00:00", "application/json", "application/x-python-serialize", "4000056655665556",
)  # fmt: skip


def odd_bodies(dice: random.Random) -> bytes:
    """A body of some shape."""
    value = dice.choice(ODD)
    made: list[Callable[[], bytes]] = [
        lambda: json.dumps(value).encode(),
        lambda: json.dumps([value, {}, EMBED]).encode(),
        lambda: json.dumps([["x"], value, EMBED]).encode(),
        lambda: json.dumps([["x"], {}, value]).encode(),
        lambda: json.dumps([[value], {}, EMBED]).encode(),
        lambda: json.dumps({"task": value, "id": dice.choice(ODD), "args": value, "kwargs": value}).encode(),
        lambda: dice.randbytes(dice.randrange(200)),
        lambda: b"x" * dice.randrange(2000),
        lambda: damaged(dice, body()),
        lambda: zlib.compress(body()),
        lambda: body(json.dumps(value)),
        body,
    ]
    return dice.choice(made)()


def odd(dice: random.Random) -> Hostile:
    """A message with some parts replaced."""
    changed = {dice.choice(["task", "id", "eta", "expires", "compression", "shadow", "lang"]): dice.choice(ODD)}
    kombus = ["body_encoding", "delivery_info", "priority", "delivery_tag", "correlation_id"]
    changed |= {dice.choice(["retries", "timelimit", "root_id", "group", "stamps", "origin"]): dice.choice([*ODD, ...])}
    return Hostile(
        "",
        headers=dice.choices([headers(), headers(**changed), dice.choice(ODD)], [4, 4, 1])[0],
        body=odd_bodies(dice),
        content_type=dice.choices(["application/json", dice.choice(ODD)], [9, 1])[0],
        content_encoding=dice.choices(["utf-8", dice.choice(ODD)], [9, 1])[0],
        properties=dice.choices([{}, {dice.choice(kombus): dice.choice([*ODD, ...])}], [3, 1])[0],
    )


def damaged(dice: random.Random, text: bytes) -> bytes:
    """*text* with some bytes changed, left out, put in or cut off."""
    for _ in range(dice.randint(1, 4)):
        at, more = dice.randrange(len(text) + 1), dice.randbytes(dice.randint(0, 3))
        text = dice.choice([text[:at], text[:at] + more + text[at:], text[:at] + more + text[at + len(more) :]])
    return text


def items(seed: int, count: int, queue: str) -> Iterator[bytes]:
    """Items of a Redis list."""
    dice = random.Random(seed)
    for _ in range(count):
        item = odd(dice).item(queue)
        match dice.randrange(6):
            case 0:
                yield damaged(dice, item)
            case 1:
                yield dice.choice([dice.randbytes(dice.randrange(300)), json.dumps(dice.choice(ODD)).encode()])
            case 2:
                message = json.loads(item)
                message[dice.choice(list(message))] = dice.choice(ODD)
                yield json.dumps(message).encode()
            case _:
                yield item


def messages(seed: int, count: int) -> Iterator[amqp.Message]:
    """Messages for RabbitMQ, each with the types that AMQP allows."""
    dice = random.Random(seed)
    made = 0
    while made < count:
        if dice.random() < 0.1:
            yield Raw(dice.choice(PROPERTIES))
        else:
            hostile = odd(dice)
            if not hostile.suits_amqp:
                continue
            message = hostile.message()
            try:
                message._serialize_properties()
            except Exception:  # what py-amqp itself cannot write
                continue
            yield message
        made += 1


def _table(*entries: bytes) -> bytes:
    content = b"".join(entries)
    return len(content).to_bytes(4, "big") + content


def _deep(kind: bytes, depth: int) -> bytes:
    value = _table()
    for _ in range(depth):
        value = _table((b"\x01a" if kind == b"F" else b"") + kind + value)
    return kind + value


_TASK: Final = b"\x04taskS" + len(TOKENIZE_TASK).to_bytes(4, "big") + TOKENIZE_TASK.encode()
PROPERTIES: Final = (
    b"\x80\x00\x02\xff\xfe",  # a content type that is no text
    b"\x40\x00\x02\xff\xfe",
    b"\x04\x00\x02\xff\xfe",  # a correlation id
    b"\x00\x40" + b"\xff" * 8,  # the time of publishing
    b"\x20\x00" + _table(_TASK, b"\x01xT" + b"\xff" * 8),  # a date beyond every calendar
    b"\x20\x00" + _table(_TASK, b"\x01xD\xff\x7f\xff\xff\xff"),
    b"\x20\x00" + _table(_TASK, b"\x02\xff\xfeS" + _table(b"\xff\xfe")),  # a name and a text that are none
    b"\x20\x00" + _table(_TASK, b"\x02idx" + _table(b"req-1")),  # bytes where a text belongs
    b"\x20\x00" + _table(_TASK, b"\x01x" + _deep(b"F", 3000)),
    b"\x20\x00" + _table(_TASK, b"\x01x" + _deep(b"A", 3000)),
    b"\x20\x00" + _table(*[b"\x02%cxF" % (n % 256) + _table() for n in range(10_000)]),
)
"""Property lists as they travel: flags, then values (AMQP 0-9-1, sections 4.2.6.1 and 4.2.5.5)."""
