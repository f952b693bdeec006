"""The server's register of unacknowledged deliveries: four scripts, and the acknowledgements not written yet."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

from kombu.log import get_logger

from tokenferry.contract.queues import MAX_MESSAGE_BYTES, MAX_TAKEN_BYTES, QUARANTINE

logger = get_logger(__name__)

MOST_PER_CALL = 500
"""Tags in one call of a script, and messages that one take may refuse: the server serves no other client meanwhile."""
BESIDE_THE_MESSAGE = 1_024
"""Bytes that the register adds to a message: its queue's name, and the mark of a redelivery."""

_TAKE, _RENEW, _OVERDUE, _GIVE_BACK = (
    Path(__file__).with_name(f"{name}.lua").read_text(encoding="utf-8")
    for name in ("take", "renew", "overdue", "give_back")
)

Taken = tuple[str, str, bytes]
"""A delivery as it was taken: queue, delivery tag, payload."""


class Credit(NamedTuple):
    """How much more of one queue may be taken. The last message may be longer than the room that is left."""

    messages: int
    room: int
    """Bytes."""


NOTED: Final[Counter[str]] = Counter()
"""Messages that this process has noted in the quarantine as it took them, by reason."""


class TakeReply(NamedTuple):
    """The answer to a take."""

    taken: list[Taken]
    cut_short: bool
    """Whether there may be more messages within the credit."""


_unsent_acks: dict[tuple[object, ...], deque[str]] = {}
"""Acknowledgements not yet written, by broker. They survive the channel they were made on."""


@dataclass(frozen=True)
class RegisterKeys:
    """The names of keys on the server, and what else a register must know."""

    unacked: str
    index: str
    quarantine: str
    lists_of: Callable[[str], list[str]]
    """The lists of a queue, in the order in which they are read: one for each priority."""
    lease: float
    """Seconds. Written into every tag, so that consumers with another lease wait as long."""
    way_back: Callable[[bytes], tuple[str, str | bytes]]
    """The list that a registered message belongs to, and the message marked as redelivered."""


class Register:
    """The register of one server, over its own client."""

    def __init__(self, client: Any, keys: RegisterKeys, broker: tuple[object, ...]) -> None:
        """*broker* identifies the server: the next channel to it writes the acknowledgements left by an earlier one."""
        self._client = client
        self._keys = keys
        self._pair = [keys.unacked, keys.index]
        self._acks = _unsent_acks.setdefault((*broker, keys.unacked), deque())
        self._take, self._renew, self._overdue, self._give_back = (
            client.register_script(text) for text in (_TAKE, _RENEW, _OVERDUE, _GIVE_BACK)
        )

    def close(self) -> None:
        self._client.connection_pool.disconnect()

    # -- taking

    def take(self, queue: str) -> TakeReply:
        """Take one message of *queue* and wait for the answer (``take.lua``)."""
        keys, arguments = self._take_arguments({queue: Credit(1, 1)}, [])
        return answer(self._take(keys=keys, args=arguments))

    def take_command(self, credit: dict[str, Credit], acks: list[str]) -> list[Any]:
        """The command of a take, to be sent over another connection."""
        keys, arguments = self._take_arguments(credit, acks)
        return ["EVALSHA", self._take.sha, len(keys), *keys, *arguments]

    def load_take(self) -> None:
        """Load the script again after the server has forgotten it."""
        self._client.script_load(_TAKE)

    def _take_arguments(self, credit: dict[str, Credit], acks: list[str]) -> tuple[list[str], list[Any]]:
        lists = [self._keys.lists_of(queue) for queue in credit]
        counts = [value for queue, (messages, room) in credit.items() for value in (queue, messages, room)]
        keys = [*self._pair, self._keys.quarantine, *(key for some in lists for key in some)]
        limits = [MAX_MESSAGE_BYTES, MAX_TAKEN_BYTES, MOST_PER_CALL]
        return keys, [f"{uuid4().hex}@{self._keys.lease:g}", len(lists[0]), *limits, len(credit), *counts, *acks]

    # -- acknowledging

    def note_ack(self, tag: str) -> None:
        self._acks.append(tag)

    def note_acks_again(self, tags: list[str]) -> None:
        """Note again what was under way when the connection was lost."""
        self._acks.extend(tags)

    @property
    def has_acks(self) -> bool:
        return bool(self._acks)

    def some_acks(self) -> list[str]:
        """Remove and return as many acknowledgements as one call may carry."""
        return list(self._drain())

    def write_acks(self) -> None:
        while acks := self.some_acks():
            try:
                with self._client.pipeline(transaction=True) as pipe:
                    pipe.hdel(self._keys.unacked, *acks).zrem(self._keys.index, *acks).execute()
            except BaseException:
                self._acks.extend(acks)
                raise

    def _drain(self) -> Iterator[str]:
        for _ in range(MOST_PER_CALL):
            try:
                yield self._acks.popleft()
            except IndexError:
                return

    # -- leases

    def renew(self, tags: list[str]) -> Iterator[str]:
        """Renew these deliveries. Yields those that are not ours any more."""
        for start in range(0, len(tags), MOST_PER_CALL):
            for gone in self._renew(keys=self._pair, args=tags[start : start + MOST_PER_CALL]):
                yield gone.decode()

    def reap(self, lease_seconds: float, visibility_seconds: float) -> None:
        """Put back the deliveries whose lease is over (``overdue.lua``)."""
        limits = [lease_seconds, visibility_seconds, MOST_PER_CALL]
        limits += [MAX_MESSAGE_BYTES + BESIDE_THE_MESSAGE, MAX_TAKEN_BYTES]
        while found := self._overdue(keys=self._pair, args=limits):
            fields = iter(found)
            moved = self._move_back(
                (tag.decode(), lease, value) for tag, lease, value in zip(fields, fields, fields, strict=True)
            )
            if moved:
                logger.warning("%d deliveries of a lost consumer given back", len(moved))
            if not moved:
                return

    def give_back(self, tags: list[str]) -> None:
        """Put deliveries back, the first of *tags* first in line. Skips what is not registered any more."""
        tags = tags[::-1]
        for start in range(0, len(tags), MOST_PER_CALL):
            some = tags[start : start + MOST_PER_CALL]
            values = self._client.hmget(self._keys.unacked, some)
            self._move_back((tag, b"", value) for tag, value in zip(some, values, strict=True) if value is not None)

    def set_aside(self, tag: str, payload: bytes) -> None:
        """Move a delivery to the quarantine, as *payload*."""
        self._give_back(keys=[*self._pair, self._keys.quarantine], args=[tag, "", payload])

    def _move_back(self, registered: Iterable[tuple[str, bytes, bytes]]) -> list[bytes]:
        lists: list[str] = []
        arguments: list[Any] = []
        for tag, lease, value in registered:
            name, payload = self._keys.way_back(value)
            lists.append(name)
            arguments += [tag, lease, payload]
        return list(self._give_back(keys=[*self._pair, *lists], args=arguments)) if arguments else []


def answer(reply: list[Any]) -> TakeReply:
    """Read the reply of ``take.lua``."""
    refused, cut_short, *fields = reply
    if refused:
        NOTED["refused where it was taken"] += refused
        logger.error("%d messages are too long or not readable; noted in %r, without content", refused, QUARANTINE)
    parts = iter(fields)
    taken = [(queue.decode(), tag.decode(), payload) for queue, tag, payload in zip(parts, parts, parts, strict=True)]
    return TakeReply(taken, bool(cut_short))
