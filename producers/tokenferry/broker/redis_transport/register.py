"""The register of deliveries that a server keeps, and our side of it: four scripts and the acknowledgements unsent."""

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
"""Tags in one call of any script but the take, and messages that one take may refuse: the server serves nobody else
meanwhile."""
BESIDE_THE_MESSAGE = 1_024
"""Bytes that the register adds to a message: the name of its queue, and the mark of a second delivery."""

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
"""By reason, how many messages this process has noted in the quarantine before anybody else saw them."""


class TakeReply(NamedTuple):
    """What one take has brought."""

    taken: list[Taken]
    cut_short: bool
    """Whether there may be more that the credit would have allowed."""


_unsent_acks: dict[tuple[object, ...], deque[str]] = {}
"""Acknowledgements not yet written, by broker. They survive the channel they were made on."""


@dataclass(frozen=True)
class RegisterKeys:
    """Where everything is on the server."""

    unacked: str
    index: str
    quarantine: str
    lists_of: Callable[[str], list[str]]
    """The lists of a queue, in the order in which they are read: one for each priority."""
    lease: float
    """Seconds: written into every tag, so that others wait as long, whatever lease is their own."""
    way_back: Callable[[bytes], tuple[str, str | bytes]]
    """The list that a registered message belongs to, and the message marked as redelivered."""


class Register:
    """One server's register, through a client of our own."""

    def __init__(self, client: Any, keys: RegisterKeys, broker: tuple[object, ...]) -> None:
        """*broker* tells servers apart: acknowledgements made for one are written to it by whoever comes next."""
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
        keys, arguments = self._take_words({queue: Credit(1, 1)}, [])
        return answer(self._take(keys=keys, args=arguments))

    def take_command(self, credit: dict[str, Credit], acks: list[str]) -> list[Any]:
        """The words of a take that is sent over another connection."""
        keys, arguments = self._take_words(credit, acks)
        return ["EVALSHA", self._take.sha, len(keys), *keys, *arguments]

    def load_take(self) -> None:
        """Give the server the script again that it has forgotten."""
        self._client.script_load(_TAKE)

    def _take_words(self, credit: dict[str, Credit], acks: list[str]) -> tuple[list[str], list[Any]]:
        lists = [self._keys.lists_of(queue) for queue in credit]
        counts = [word for queue, (messages, room) in credit.items() for word in (queue, messages, room)]
        keys = [*self._pair, self._keys.quarantine, *(key for some in lists for key in some)]
        limits = [MAX_MESSAGE_BYTES, MAX_TAKEN_BYTES, MOST_PER_CALL]
        return keys, [f"{uuid4().hex}@{self._keys.lease:g}", len(lists[0]), *limits, len(credit), *counts, *acks]

    # -- acknowledging

    def note_ack(self, tag: str) -> None:
        self._acks.append(tag)

    def note_acks_again(self, tags: list[str]) -> None:
        """What was on its way when the connection was lost."""
        self._acks.extend(tags)

    @property
    def has_acks(self) -> bool:
        return bool(self._acks)

    def some_acks(self) -> list[str]:
        """Take acknowledgements along, as many as one call may carry."""
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
        """Renew these deliveries. Yields those that were given back meanwhile and are somebody else's."""
        for start in range(0, len(tags), MOST_PER_CALL):
            for gone in self._renew(keys=self._pair, args=tags[start : start + MOST_PER_CALL]):
                yield gone.decode()

    def reap(self, lease_seconds: float, visibility_seconds: float) -> None:
        """Give back what the dead and the frozen have left (``overdue.lua``)."""
        limits = [lease_seconds, visibility_seconds, MOST_PER_CALL]
        limits += [MAX_MESSAGE_BYTES + BESIDE_THE_MESSAGE, MAX_TAKEN_BYTES]
        while found := self._overdue(keys=self._pair, args=limits):
            words = iter(found)
            moved = self._move_back(
                (tag.decode(), lease, value) for tag, lease, value in zip(words, words, words, strict=True)
            )
            if moved:
                logger.warning("%d deliveries of a lost consumer given back", len(moved))
            if not moved:
                return

    def give_back(self, tags: list[str]) -> None:
        """Put deliveries back, the first of *tags* first in line; leaves alone what is not registered any more."""
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
        words: list[Any] = []
        for tag, lease, value in registered:
            name, payload = self._keys.way_back(value)
            lists.append(name)
            words += [tag, lease, payload]
        return list(self._give_back(keys=[*self._pair, *lists], args=words)) if words else []


def answer(reply: list[Any]) -> TakeReply:
    """The answer of ``take.lua``, understood."""
    refused, cut_short, *words = reply
    if refused:
        NOTED["refused where it was taken"] += refused
        logger.error("%d messages are too long or not readable; noted in %r, without content", refused, QUARANTINE)
    parts = iter(words)
    taken = [(queue.decode(), tag.decode(), payload) for queue, tag, payload in zip(parts, parts, parts, strict=True)]
    return TakeReply(taken, bool(cut_short))
