"""Every statement that reads or changes an outbox.

It holds sealed messages, their queue, id, route and times, and nothing else. Times are Unix milliseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tokenferry.broker.publishing import Outgoing
from tokenferry.outbox.database import OutboxDatabase
from tokenferry.outbox.lost import times_longer

AFTERMATH: Final = 12 * 3_600_000
"""Milliseconds from the expiry of a request until it is given up. A worker may still answer `expired` meanwhile."""
READ: Final = 7 * 86_400_000
"""Milliseconds for which a route counts as read with this outbox after its last reading."""

AWAITED: Final = "route IN (SELECT name FROM routes WHERE read_at > :now - :read)"
"""SQL condition: a route that is read with this outbox, so that the outbox learns the outcome."""


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One message that is to be sent."""

    seq: int
    message: Outgoing

    def expired_before(self, then: int) -> bool:
        """True if it had expired at the time *then*."""
        return self.message.expires_at is not None and self.message.expires_at <= then


@dataclass(frozen=True)
class OutboxLimits:
    """How much an outbox holds."""

    rows: int = 200_000
    bytes: int = 1024 * 1024 * 1024


class OutboxStore(OutboxDatabase):
    """The messages of one outbox."""

    def __init__(self, path: Path, *, durable: bool, wait: float = 10.0) -> None:
        super().__init__(path, durable=durable, wait=wait)
        self._connection.create_function("times_longer", 1, times_longer, deterministic=True)

    # -- accepting

    def append(self, messages: Sequence[Outgoing], *, now: int, limits: OutboxLimits) -> list[bool]:
        """Keep *messages* in one commit. Return for each whether there was room for it.

        A message whose id is already here is not kept twice: the first one is sent again. Raises `OutboxFailed`.
        """
        with self._transaction():
            room = self._room(len(messages), now, limits)
            taken = []
            for message in messages:
                known = self._connection.execute("UPDATE messages SET waiting = 1 WHERE id = ?", (message.id,)).rowcount
                if not known and room > 0:
                    seq = self._connection.execute(
                        "INSERT INTO messages (id, queue, route, accepted_at, expires_at) VALUES (?, ?, ?, ?, ?)",
                        (message.id, message.queue, message.reply_to, now, message.expires_at),
                    ).lastrowid
                    self._connection.execute(
                        "INSERT INTO bodies VALUES (?, ?, ?)", (seq, message.headers["task"], message.body)
                    )
                    room -= 1
                    known = 1
                taken.append(bool(known))
            return taken

    def _room(self, wanted: int, now: int, limits: OutboxLimits) -> int:
        """How many messages may be added. Makes room: deletes confirmed ones whose outcome nobody here will learn."""
        missing = self._one("SELECT held FROM state") + wanted - limits.rows
        if self._used() >= limits.bytes:
            missing = max(missing, wanted)
        if missing > 0:
            self._connection.execute(
                "DELETE FROM messages WHERE seq IN (SELECT seq FROM messages WHERE NOT waiting"
                f" AND (route IS NULL OR NOT {AWAITED}) ORDER BY seq LIMIT :missing)",
                {"now": now, "read": READ, "missing": missing},
            )
        if self._used() >= limits.bytes:
            return 0
        return int(limits.rows - self._one("SELECT held FROM state"))

    # -- sending

    def to_send(self, most: int, *, besides: Collection[str]) -> list[OutboxEntry]:
        """Return the oldest waiting messages, at most *most*, of all queues but *besides*."""
        marks = ", ".join("?" * len(besides))
        rows = self._select(
            "SELECT seq, id, queue, task, body, route, expires_at FROM messages JOIN bodies USING (seq)"
            f" WHERE waiting AND queue NOT IN ({marks}) ORDER BY seq LIMIT ?",
            (*besides, most),
        )
        return [
            OutboxEntry(
                seq,
                replace(Outgoing.task(queue, task, id_, ""), body=body, reply_to=route, expires_at=expires_at),
            )
            for seq, id_, queue, task, body, route, expires_at in rows
        ]

    def waiting(self) -> int:
        """How many messages wait."""
        return int(self._ask("SELECT count(*) FROM messages WHERE waiting", ()))

    def confirm(self, seqs: Sequence[int], *, now: int, resend_after: int) -> None:
        """Record that the broker has these, and when each may be sent again: see `times_longer`."""
        with self._transaction():
            self._connection.executemany(
                "UPDATE messages SET waiting = 0, sends = sends + 1, sent_at = coalesce(sent_at, :now),"
                " due_at = :now + times_longer(sends) * min(:after, (expires_at - accepted_at) / 4 + 1)"
                " WHERE seq = :seq",
                [{"now": now, "after": resend_after, "seq": seq} for seq in seqs],
            )

    def give_up(self, seqs: Sequence[int]) -> None:
        """Delete messages that cannot be sent, and count them."""
        with self._transaction():
            self._connection.executemany("DELETE FROM messages WHERE seq = ?", [(seq,) for seq in seqs])
            self._connection.execute("UPDATE state SET unanswered = unanswered + ?", (len(seqs),))

    # -- outcomes

    def settle(self, id_: str) -> None:
        """Delete a message whose outcome is known."""
        with self._transaction():
            self._connection.execute("DELETE FROM messages WHERE id = ?", (id_,))

    def read_route(self, route: str, *, now: int) -> None:
        """Record that outcomes on *route* are read with this outbox, for a week from now."""
        with self._transaction():
            self._connection.execute(
                "INSERT INTO routes VALUES (:name, :now) ON CONFLICT (name) DO UPDATE SET read_at = :now",
                {"name": route, "now": now},
            )

    def unanswered(self, *, now: float) -> dict[str, int]:
        """Count confirmed messages without an outcome, by queue. Only queues with one that may be sent again."""
        rows = self._select(
            "SELECT queue, count(*) FROM messages"
            f" WHERE NOT waiting AND {AWAITED} GROUP BY queue HAVING min(due_at) <= :now",
            {"now": now, "read": READ},
        )
        return dict(rows)

    def send_again(self, queue: str, missing: int, *, now: float) -> int:
        """Mark the oldest *missing* messages of *queue* that are due to be sent again. Return how many.

        A message whose life is half over is sent again once, missing or not.
        """
        with self._transaction():
            return self._connection.execute(
                "UPDATE messages SET waiting = 1 WHERE seq IN (SELECT seq FROM messages WHERE NOT waiting"
                f" AND queue = :queue AND due_at <= :now AND {AWAITED} ORDER BY seq LIMIT :missing)"
                " OR (NOT waiting AND queue = :queue AND due_at <= :now AND sends = 1"
                f" AND :now - accepted_at >= expires_at - :now AND {AWAITED})",
                {"queue": queue, "now": now, "read": READ, "missing": max(0, missing)},
            ).rowcount

    def older(self, before: int) -> int:
        """Count confirmed messages without an outcome that were accepted *before*, of every route."""
        return int(self._ask("SELECT count(*) FROM messages WHERE NOT waiting AND accepted_at <= ?", (before,)))

    def send_older_again(self, before: int) -> int:
        """Mark those to be sent again. Return how many."""
        with self._transaction():
            return self._connection.execute(
                "UPDATE messages SET waiting = 1 WHERE NOT waiting AND accepted_at <= ?", (before,)
            ).rowcount

    def tidy(self, *, now: int, keep: int, horizon: int) -> int:
        """Delete what is of no more use. Return how many of those had no outcome.

        *keep*: milliseconds for which a confirmed message is kept if nobody here will learn its outcome. *horizon*:
        milliseconds for which workers remember an outcome at least, from the first send. Later it is never sent again.
        """
        times = {"now": now, "read": READ, "keep": keep, "horizon": horizon, "aftermath": AFTERMATH}
        with self._transaction():
            given_up = self._connection.execute(
                f"DELETE FROM messages WHERE sent_at IS NOT NULL AND {AWAITED}"
                " AND (sent_at <= :now - :horizon OR (NOT waiting AND expires_at <= :now - :aftermath))",
                times,
            ).rowcount
            self._connection.execute(
                f"DELETE FROM messages WHERE sent_at IS NOT NULL AND (route IS NULL OR NOT {AWAITED})"
                " AND (sent_at <= :now - :horizon OR (NOT waiting AND sent_at <= :now - :keep))",
                times,
            )
            self._connection.execute("DELETE FROM routes WHERE read_at <= :now - :read", times)
            self._connection.execute("UPDATE state SET unanswered = unanswered + ?", (given_up,))
        return given_up

    # -- looking

    def note(self, trouble: str | None, *, now: int) -> None:
        """Write down why nothing can be sent now, for `tokenferry outbox status`."""
        with self._transaction():
            self._connection.execute("UPDATE state SET trouble = ?, trouble_at = ?", (trouble, trouble and now))

    def status(self, *, now: int) -> dict[str, Any]:
        """The numbers that `tokenferry outbox status` shows."""
        with self._transaction():
            used = self._used()
        queues = self._select(
            "SELECT queue, sum(waiting), sum(NOT waiting), min(accepted_at) FROM messages GROUP BY queue ORDER BY 1",
            (),
        )
        ((unanswered, trouble, trouble_at),) = self._select("SELECT unanswered, trouble, trouble_at FROM state", ())
        awaited = self._ask(
            f"SELECT count(*) FROM messages WHERE NOT waiting AND {AWAITED}", {"now": now, "read": READ}
        )
        oldest = min((row[3] for row in queues), default=None)
        return {
            "waiting": sum(row[1] for row in queues),
            "confirmed": sum(row[2] for row in queues),
            "awaiting_outcome": awaited,
            "given_up": unanswered,
            "oldest_seconds": None if oldest is None else max(0, now - oldest) // 1000,
            "bytes": used,
            "queues": {queue: {"waiting": waiting, "confirmed": confirmed} for queue, waiting, confirmed, _ in queues},
            "trouble": trouble,
            "trouble_since": trouble_at,
        }
