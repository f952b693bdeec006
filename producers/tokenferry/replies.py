"""The answers to a producer's own requests, on a private route that no other process reads.

The first request makes the route, and a thread reads it until the producer is closed. The name of the route is random,
so nobody else can name it. What is left on it when its process dies is dropped by the broker (`PRIVATE_SECONDS`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from tokenferry.broker.fork_guard import ForkGuard
from tokenferry.broker.reachability import CONNECTION_LOST
from tokenferry.configuration import Configuration
from tokenferry.consuming import Results
from tokenferry.contract.names import new_id
from tokenferry.contract.queues import PRIVATE, PRIVATE_SECONDS
from tokenferry.contract.results import AnyResult, AttachResult, Result, TokenResult
from tokenferry.errors import UnknownRequest

log = logging.getLogger(__name__)

REMEMBERED: Final = 10_000
"""Answers that are kept for `outcome`: the newest."""

Answer = TokenResult | AttachResult


@dataclass
class Question:
    """One request that was asked."""

    attach_to: str | None
    """The target, if its token is used at once: then the answer says what became of both."""
    asked_at: float = field(default_factory=time.monotonic)
    answer: Future[Answer] = field(default_factory=Future)

    def final(self, result: AnyResult) -> Answer | None:
        """Return the answer in *result*; None: it is none, or a better one follows."""
        if isinstance(result, AttachResult):
            return result
        if not isinstance(result, TokenResult):
            return None
        if self.attach_to is None:
            return result
        return None if result.ok else _not_attached(result, self.attach_to)


class Replies:
    """Pairs answers with the requests of one process. Thread-safe."""

    def __init__(self, configuration: Configuration, *, remembered: int = REMEMBERED) -> None:
        """Raises what `Results` raises."""
        self.route = new_id(PRIVATE.removesuffix("-"))
        self._remembered = remembered
        self._process = ForkGuard("a Producer")
        self._results = Results(self.route, configuration, outbox=False)
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, Question] = OrderedDict()
        self._answered: OrderedDict[str, Question] = OrderedDict()
        self._stopped: BaseException | None = None
        """Why no more answers come; None: they do."""
        self._thread = threading.Thread(target=self._read, name="tokenferry-replies", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """False if no more answers come here."""
        return self._stopped is None and self._process.is_this

    def ask(self, request_id: str, attach_to: str | None) -> Future[Answer]:
        """Return the future of the answer to *request_id*. Call it before the request is sent.

        A request that was asked before, and is asked again under its id, has the same answer.
        """
        self._process.check()
        with self._lock:
            known = self._answered.get(request_id) or self._waiting.get(request_id)
            if known is None:
                self._forget_old()
                known = self._waiting[request_id] = Question(attach_to)
                if self._stopped is not None:
                    known.answer.set_exception(self._stopped)
            return known.answer

    def answer_to(self, request_id: str) -> Future[Answer]:
        """Return the future of the answer to a request that was asked. Raises `UnknownRequest`."""
        with self._lock:
            question = self._answered.get(request_id) or self._waiting.get(request_id)
        if question is None:
            raise UnknownRequest(request_id)
        return question.answer

    def close(self) -> None:
        """Stop reading, and delete the route. In a forked process it does nothing: the parent closes it."""
        if not self._process.is_this:
            return
        self._results.stop()
        self._thread.join(10.0)

    def _read(self) -> None:
        stopped: BaseException = RuntimeError("the producer was closed before the answer came")
        try:
            for result in self._results:
                self._pair(result)
            with suppress(*CONNECTION_LOST):
                self._results.delete()
        except BaseException as error:  # whoever waits must know that no answer comes
            log.error("answers are not read any more: %s", type(error).__name__)
            stopped = error
        finally:
            self._end(stopped)
            with suppress(*CONNECTION_LOST):
                self._results.close()

    def _pair(self, result: AnyResult) -> None:
        with self._lock:
            question = self._waiting.get(result.request_id)
            if question is None or (answer := question.final(result)) is None:
                return  # not ours, or there is more to come
            del self._waiting[result.request_id]
            self._answered[result.request_id] = question
            while len(self._answered) > self._remembered:
                self._answered.popitem(last=False)
        question.answer.set_result(answer)

    def _forget_old(self) -> None:
        """Forget the oldest of too many questions, if they are so old that the broker has dropped their answers."""
        while len(self._waiting) >= self._remembered:
            oldest = next(iter(self._waiting.values()))
            if time.monotonic() - oldest.asked_at < PRIVATE_SECONDS:
                return
            self._waiting.popitem(last=False)

    def _end(self, stopped: BaseException) -> None:
        with self._lock:
            self._stopped = stopped
            waiting = list(self._waiting.values())
        for question in waiting:
            if not question.answer.done():
                question.answer.set_exception(stopped)


def _not_attached(result: TokenResult, to: str) -> AttachResult:
    """The answer to a request whose token could not be made, and so not be used."""
    shared = {name: getattr(result, name) for name in Result.model_fields}
    return AttachResult(**shared, attach_id=result.request_id, to=to)
