"""The server's registers of unacknowledged deliveries: four scripts, and the acknowledgements not written yet.

Which register a delivery is in follows from its queue (`register_of`). Its tag names the register, too.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

from kombu.log import get_logger
from redis.exceptions import NoPermissionError, ResponseError

from tokenferry.broker.error_text import want_of_room
from tokenferry.contract.queues import (
    MAX_MESSAGE_BYTES,
    MAX_TAKEN_BYTES,
    PARKED_REGISTER,
    QUARANTINE,
    WORKER_REGISTERS,
    life_of,
    register_of,
)

logger = get_logger(__name__)

MOST_PER_CALL = 500
"""Tags in one call of a script, and messages that one take may refuse: the server serves no other client meanwhile."""
BESIDE_THE_MESSAGE = 1_024
"""Bytes that the register adds to a message: its queue's name, and the mark of a redelivery."""

_TAKE, _RENEW, _OVERDUE, _GIVE_BACK = (
    Path(__file__).with_name(f"{name}.lua").read_text(encoding="utf-8")
    for name in ("take", "renew", "overdue", "give_back")
)

SHARED: Final = ""
"""The register that all queues shared in the version before. kombu's own transport uses it still."""
OUR_QUEUES: Final = ("tokenize", "attach", "onboard", "parked", "results")
"""The first words of our queues' names."""

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
"""Acknowledgements not yet written, by broker and register. They survive the channel they were made on."""


@dataclass(frozen=True)
class RegisterKeys:
    """The names of keys on the server, and what else the registers must know."""

    unacked: str
    """What the names of all registers begin with."""
    index: str
    quarantine: str
    lists_of: Callable[[str], list[str]]
    """The lists of a queue, in the order in which they are read: one for each priority."""
    lease: float
    """Seconds. Written into every tag, so that consumers with another lease wait as long."""
    way_back: Callable[[bytes, str], tuple[str, str | bytes]]
    """The list that a message in a register belongs to, and the message marked as redelivered."""

    def pair(self, register: str) -> list[str]:
        """The two keys of one register: what it holds, and when each lease was renewed."""
        ending = f".{register}" if register else ""
        return [self.unacked + ending, self.index + ending]


class Register:
    """The registers of one server that one channel uses, over its own client."""

    def __init__(self, client: Any, keys: RegisterKeys, broker: tuple[object, ...]) -> None:
        """*broker* identifies the server: the next channel to it writes the acknowledgements left by an earlier one."""
        self._client = client
        self._keys = keys
        self._broker = broker
        self.queues: dict[str, str] = {}
        """The queues that this channel takes from, and the register of each."""
        self._left_to_others: set[str] = set()
        """Registers that this user may not touch, and whose queues this channel does not read."""
        self._take, self._renew, self._overdue, self._give_back = (
            client.register_script(text) for text in (_TAKE, _RENEW, _OVERDUE, _GIVE_BACK)
        )

    def close(self) -> None:
        self._client.connection_pool.disconnect()

    def use(self, queue: str) -> None:
        """Take from *queue* from now on."""
        self.queues.setdefault(queue, register_of(queue))

    def _used(self) -> list[str]:
        """The registers of all queues that this channel takes from."""
        return sorted(set(list(self.queues.values())))

    # -- taking

    def take(self, queue: str) -> TakeReply:
        """Take one message of *queue* and wait for the answer (``take.lua``)."""
        keys, arguments = self._take_arguments({queue: Credit(1, 1)}, [])
        return answer(self._take(keys=keys, args=arguments))

    def take_command(self, credit: dict[str, Credit], acks: list[str]) -> list[Any]:
        """The command of a take, to be sent over another connection."""
        keys, arguments = self._take_arguments(credit, acks)
        return ["EVALSHA", self._take.sha, len(keys), *keys, *arguments]

    @property
    def take_source(self) -> str:
        """The script of a take."""
        return _TAKE

    def _take_arguments(self, credit: dict[str, Credit], acks: list[str]) -> tuple[list[str], list[Any]]:
        for queue in credit:
            self.use(queue)
        number = {register: at for at, register in enumerate(self._used(), start=1)}
        keys = [key for register in number for key in self._keys.pair(register)]
        counts: list[Any] = []
        for queue, (messages, room) in credit.items():
            lists = self._keys.lists_of(queue)
            keys += lists
            counts += [queue, number[self.queues[queue]], len(lists), messages, room]
        numbered = [value for tag in acks for value in (number[_register_in(tag)], tag)]
        limits = [MAX_MESSAGE_BYTES, MAX_TAKEN_BYTES, MOST_PER_CALL]
        seed = f"{uuid4().hex}@{self._keys.lease:g}"
        registers = [value for register in number for value in (register, int(1000 * (life_of(register) or 0)))]
        return keys, [seed, self._keys.quarantine, *limits, len(number), len(credit), *registers, *counts, *numbered]

    # -- acknowledging

    def _acks(self, register: str) -> deque[str]:
        return _unsent_acks.setdefault((*self._broker, self._keys.unacked, register), deque())

    def note_ack(self, tag: str) -> None:
        self._acks(_register_in(tag)).append(tag)

    def note_acks_again(self, tags: list[str]) -> None:
        """Note again what was under way when the connection was lost."""
        for tag in tags:
            self.note_ack(tag)

    @property
    def has_acks(self) -> bool:
        return any(self._acks(register) for register in self._used())

    def some_acks(self) -> list[str]:
        """Remove and return as many acknowledgements as one call may carry."""
        drained = (tag for register in self._used() for tag in _drain(self._acks(register)))
        return list(islice(drained, MOST_PER_CALL))

    def write_acks(self) -> None:
        for register in self._used():
            unacked, index = self._keys.pair(register)
            waiting = self._acks(register)
            while acks := list(islice(_drain(waiting), MOST_PER_CALL)):
                try:
                    with self._client.pipeline(transaction=True) as pipe:
                        pipe.hdel(unacked, *acks).zrem(index, *acks).execute()
                except BaseException:
                    waiting.extend(acks)
                    raise

    # -- leases

    def renew(self, tags: list[str]) -> Iterator[str]:
        """Renew these deliveries. Yields those that are not ours any more."""
        for register, some in _by_register(tags):
            for gone in self._renew(keys=self._keys.pair(register), args=some):
                yield gone.decode()

    def reap(self, lease_seconds: float, visibility_seconds: float) -> None:
        """Put back the deliveries whose lease is over (``overdue.lua``).

        A refusal concerns one register or one entry alone: it is raised after everything else was given back.
        """
        limits = [lease_seconds, visibility_seconds, MOST_PER_CALL]
        limits += [MAX_MESSAGE_BYTES + BESIDE_THE_MESSAGE, MAX_TAKEN_BYTES]
        refusals: list[ResponseError] = []
        for register in self._watched():
            try:
                self._reap(register, limits, refusals)
            except NoPermissionError as error:
                if register in self._used():
                    refusals.append(error)
                else:
                    self._left_to_others.add(register)
                    logger.info("this user may not give back from %r: another has to", self._keys.pair(register)[0])
            except ResponseError as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]

    def _watched(self) -> list[str]:
        """The registers that this channel gives back from: its own; of workers also those that no consumer may use."""
        used = set(self._used())
        if used & WORKER_REGISTERS:
            used |= {PARKED_REGISTER, SHARED} - self._left_to_others
        return sorted(used)

    def _reap(self, register: str, limits: list[Any], refusals: list[ResponseError]) -> None:
        # In the shared register there may be deliveries of other applications, which kombu's own transport gives back.
        ours = [] if register else [*OUR_QUEUES, *self.queues]
        while found := self._overdue(keys=self._keys.pair(register), args=[*limits, *ours]):
            fields = iter(found)
            overdue = [(tag.decode(), lease, value) for tag, lease, value in zip(fields, fields, fields, strict=True)]
            before = NOTED.total()
            moved = self._move_back(register, overdue, refusals)
            if aside := NOTED.total() - before:
                name = self._keys.pair(register)[0]
                logger.error(
                    "%d entries of %r cannot be given back; noted in %r, without content", aside, name, QUARANTINE
                )
            if not moved:
                return
            logger.warning("%d deliveries of a lost consumer given back", moved)

    def give_back(self, tags: list[str]) -> None:
        """Put deliveries back, the first of *tags* first in line. Skips what is not registered any more."""
        refusals: list[ResponseError] = []
        for register, some in _by_register(tags[::-1]):
            values = self._client.hmget(self._keys.pair(register)[0], some)
            registered = [(tag, b"", value) for tag, value in zip(some, values, strict=True) if value is not None]
            self._move_back(register, registered, refusals)
        if refusals:
            raise refusals[0]

    def set_aside(self, tag: str, payload: bytes) -> None:
        """Move a delivery to the quarantine, as *payload*."""
        self._give_back(keys=self._keys.pair(_register_in(tag)), args=[tag, "", self._keys.quarantine, payload])

    def _move_back(
        self, register: str, registered: list[tuple[str, bytes, bytes]], refusals: list[ResponseError]
    ) -> int:
        """Move these entries to their lists, and return how many were. One that is refused goes to *refusals*."""
        if not registered:
            return 0
        arguments: list[Any] = []
        for tag, lease, value in registered:
            arguments += [tag, lease, *self._keys.way_back(value, register)]
        try:
            moved = self._give_back(keys=self._keys.pair(register), args=arguments)
            if (life := life_of(register)) is not None:
                for name in self._keys.lists_of(register):
                    self._client.pexpire(name, int(life * 1000))
            return len(moved)
        except ResponseError as error:
            if want_of_room(error):
                raise
            if len(registered) == 1:
                refusals.append(error)
                return 0
        # One entry may name a list that this user may not write, or that is none: it stops no other.
        return sum(self._move_back(register, [entry], refusals) for entry in registered)


def _register_in(tag: str) -> str:
    """The register that a delivery tag names. Tags of the version before name none: they are in the shared one."""
    return tag.partition("/")[2]


def _by_register(tags: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """*tags* of one register after the other, in their order, not too many for one call."""
    grouped: dict[str, list[str]] = {}
    for tag in tags:
        grouped.setdefault(_register_in(tag), []).append(tag)
    for register, some in grouped.items():
        for start in range(0, len(some), MOST_PER_CALL):
            yield register, some[start : start + MOST_PER_CALL]


def _drain(tags: deque[str]) -> Iterator[str]:
    """Remove and yield each of *tags*, which other threads may remove or add meanwhile."""
    while True:
        try:
            yield tags.popleft()
        except IndexError:
            return


def answer(reply: list[Any]) -> TakeReply:
    """Read the reply of ``take.lua``."""
    refused, cut_short, *fields = reply
    if refused:
        NOTED["refused where it was taken"] += refused
        logger.error("%d messages are too long or not readable; noted in %r, without content", refused, QUARANTINE)
    parts = iter(fields)
    taken = [(queue.decode(), tag.decode(), payload) for queue, tag, payload in zip(parts, parts, parts, strict=True)]
    return TakeReply(taken, bool(cut_short))
