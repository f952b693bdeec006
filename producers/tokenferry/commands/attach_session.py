"""Handing attach orders to the broker, some hundred at a time, and waiting for what became of them."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import click

from tokenferry.broker.publishing import PublishError
from tokenferry.broker.publishing import wait as confirmed
from tokenferry.broker.reachability import CONNECTION_LOST
from tokenferry.commands.attach_orders import (
    AttachDefaults,
    AttachOrder,
    RefusedOrder,
    order_of_line,
    order_of_result,
    without_empty,
)
from tokenferry.commands.printing import printed
from tokenferry.commands.taking import File, acknowledge, hold
from tokenferry.configuration import Configuration
from tokenferry.consuming import Results
from tokenferry.contract.names import Lane
from tokenferry.contract.requests import InvalidRequest
from tokenferry.contract.results import AnyResult, AttachResult
from tokenferry.contract.targets import InvalidTarget, digest
from tokenferry.inputs.lines import Lines
from tokenferry.producer import Producer

WINDOW: Final = 500
"""Orders on their way to the broker at the same time."""


@dataclass(frozen=True)
class Submitted:
    """One order on its way to the broker."""

    number: int | None
    """Its line; None where it does not come from a file."""
    attach_id: str
    token: str
    confirmation: Future[None]


class AttachSession:
    """Takes orders in, hands them to the broker, and knows which of them have their outcome."""

    def __init__(
        self, configuration: Configuration, lane: Lane, route: str | None, as_json: bool, *, quiet: bool
    ) -> None:
        self.route = route
        self._lane = lane
        self.sent: set[str] = set()
        """Attach ids without an outcome yet."""
        self._as_json = as_json
        self._quiet = quiet
        self._failed = 0
        self._configuration = configuration
        self._timeout = configuration.broker.publish_timeout
        self._given: dict[str, tuple[str, str]] = {}
        """Token and target by attach id."""

    def read(self, lines: Lines, defaults: AttachDefaults) -> Iterator[tuple[int | None, AttachOrder]]:
        """The orders of *lines*; what is wrong with one is said, and the next goes on."""
        for line in without_empty(lines):
            try:
                yield line.number, order_of_line(line, defaults)
            except RefusedOrder as error:
                self.refuse(line.number, str(error))

    def send(self, producer: Producer, orders: Iterable[tuple[int | None, AttachOrder]]) -> None:
        """Publish each, some hundred at a time, and say its id once the broker has it."""
        window: deque[Submitted] = deque()
        for number, order in orders:
            try:
                window.append(self._submit(producer, number, order))
            except RefusedOrder as error:
                self.refuse(number, str(error))
                continue
            while len(window) >= WINDOW or (window and window[0].confirmation.done()):
                self._confirm(window.popleft())
        while window:
            self._confirm(window.popleft())

    def send_batch(
        self, producer: Producer, batch: Iterable[AnyResult], defaults: AttachDefaults, rejects: File
    ) -> list[AnyResult]:
        """Order the tokens of *batch*; what cannot be ordered goes to *rejects*.

        Returns the results that may be acknowledged: the broker has their order, or they are in *rejects*. Raises
        `OutputFailed`.
        """
        sent: list[tuple[AnyResult, Submitted]] = []
        unusable: list[AnyResult] = []
        for result in batch:
            try:
                sent.append((result, self._submit(producer, None, order_of_result(result, defaults))))
            except RefusedOrder as error:
                of = f"request {result.request_id}"
                self.refuse(None, str(error) if str(error).startswith(of) else f"{of}: {error}")
                unusable.append(result)
        rejects.append(unusable)
        return unusable + [
            result for result, order in sent if self._confirm(order, or_else="its result stays on the route")
        ]

    def refuse(self, number: int | None, reason: str) -> None:
        """Say why an order does not go: in JSON where that is asked for, and on standard error for people."""
        self._failed += 1
        if self._as_json:
            click.echo(json.dumps({"line": number, "status": "refused", "reason": reason}))
        else:
            click.echo(f"tokenferry: {f'line {number}: ' if number else ''}{reason}", err=True)

    def settle(self, result: AttachResult) -> None:
        """Print an outcome."""
        self.sent.discard(result.attach_id)
        self._failed += not result.ok
        line = result.model_dump_json(exclude_none=True) if self._as_json else _spelled(result)
        printed(line, f"the order {result.attach_id} has its outcome on route {self.route}")

    def wait(self, results: Results, timeout: float, *, own: bool) -> None:
        """Print outcomes as they arrive, until every order has one or nothing has come for so long.

        Results of others found on the route stay there.
        """
        deadline = time.monotonic() + timeout
        try:
            while self.sent and (left := deadline - time.monotonic()) > 0:
                result = hold(results, min(left, 0.5))
                if isinstance(result, AttachResult) and result.attach_id in self.sent:
                    self.settle(result)
                    acknowledge(results, [result])
                    deadline = time.monotonic() + timeout
                elif results.is_full:
                    click.echo(f"tokenferry: too many results of others wait on route {self.route}", err=True)
                    break
            if own and not self.sent:
                with suppress(*CONNECTION_LOST):
                    results.delete()
        finally:
            with suppress(*CONNECTION_LOST):
                results.close()

    def interrupted(self) -> None:
        """Ctrl-C was pressed: what was sent is sent, and the rest is not well."""
        self._failed += 1

    def all_well(self, *, waited: bool) -> bool:
        """Whether every order was sent, and had a good outcome if that was waited for."""
        return not self._failed and not (waited and self.sent)

    def _submit(self, producer: Producer, number: int | None, order: AttachOrder) -> Submitted:
        """Hand *order* to the publisher. Raises `RefusedOrder`."""
        if order.result.platform not in self._configuration.platforms:
            raise RefusedOrder("platform: is not configured")
        said = (str(order.result.token), digest(order.target))
        if self._given.setdefault(order.attach_id, said) != said:
            raise RefusedOrder("attach_id: another order of this file has it; each has its own")
        try:
            attach_id, message = producer.sealer.attach_message(
                order.result, order.target, lane=self._lane, reply_to=self.route, attach_id=order.attach_id
            )
        except (InvalidRequest, InvalidTarget) as error:
            raise RefusedOrder(str(error)) from None
        confirmation = producer.publisher.submit(message, timeout=self._timeout)
        return Submitted(number, attach_id, str(order.result.token), confirmation)

    def _confirm(self, order: Submitted, *, or_else: str | None = None) -> bool:
        """Wait until the broker has *order*, and say so. False, which is said too, where it did not confirm it."""
        number, attach_id = order.number, order.attach_id
        try:
            confirmed(order.confirmation, self._timeout)
        except PublishError as error:
            if or_else is None and number is None:
                or_else = f"repeat it with --attach-id {attach_id}"
            self.refuse(number, f"{error}; {or_else}" if or_else else str(error))
            return False
        self.sent.add(attach_id)
        if self._quiet:
            return True
        line = {"line": number, "attach_id": attach_id, "token": order.token, "status": "sent"}
        where = f" of line {number}" if number else ""
        done = f"the order {attach_id}{where} was sent, and perhaps {WINDOW} behind it"
        printed(json.dumps(line) if self._as_json else attach_id, done if number else f"the order {attach_id} was sent")
        return True


def _spelled(result: AttachResult) -> str:
    """One line for a person."""
    why = result.failure
    words = ["attached" if result.ok else "failed", result.attach_id, result.token, result.object_id]
    if why is not None:
        by = f"by {why.spent_by}" if why.spent_by else None
        words += [why.code, why.decline_code, why.param, by, f"on {why.spent_on}" if why.spent_on else None]
    elif result.stored_id != result.object_id:
        words.append(result.stored_id)
    return " ".join(word for word in words if word)
