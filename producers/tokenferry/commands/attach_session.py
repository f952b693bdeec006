"""Sends attach orders to the broker, prints what became of each, and counts what went wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import click

from tokenferry.broker.publishing import PublishError, wait
from tokenferry.commands.printing import print_line
from tokenferry.commands.taking import File, process_own
from tokenferry.configuration import Configuration
from tokenferry.consuming import Results
from tokenferry.contract.names import Lane
from tokenferry.contract.requests import InvalidRequest
from tokenferry.contract.results import AnyResult, AttachResult
from tokenferry.contract.targets import InvalidTarget, digest
from tokenferry.inputs.attach_orders import AttachDefaults, AttachOrder, RejectedOrder, order_of_line, order_of_result
from tokenferry.inputs.lines import Lines
from tokenferry.producer import WINDOW, Producer, in_order

NumberedOrder = tuple[int | None, AttachOrder]
"""An order and its line. None if it does not come from a file."""


@dataclass(frozen=True)
class SubmittedOrder:
    """One order that was submitted to the broker."""

    number: int | None
    attach_id: str
    token: str
    future: Future[None]


class AttachSession:
    """One run of `tokenferry attach`."""

    def __init__(
        self, configuration: Configuration, lane: Lane, route: str | None, as_json: bool, *, quiet: bool
    ) -> None:
        """*route*: where outcomes go. *quiet*: do not print the orders that were sent."""
        self.route = route
        self.waiting: set[str] = set()
        """Attach ids of the orders that were sent and have no outcome yet."""
        self._lane = lane
        self._as_json = as_json
        self._quiet = quiet
        self._failed = 0
        self._configuration = configuration
        self._timeout = configuration.broker.publish_timeout
        self._orders: dict[str, tuple[str, str]] = {}
        """Token and target by attach id."""

    def read(self, lines: Lines, defaults: AttachDefaults) -> Iterator[NumberedOrder]:
        """Read the orders of *lines*. Report a line that is not valid, and continue with the next."""
        for line in lines:
            if line.trouble is not None or line.text.strip():
                try:
                    yield line.number, order_of_line(line, defaults)
                except RejectedOrder as error:
                    self.reject(line.number, str(error))

    def send(self, producer: Producer, orders: Iterable[NumberedOrder]) -> None:
        """Send *orders*, and print the id of each once the broker has it."""
        for order in in_order(self._submitted(producer, orders)):
            self._confirm(order, or_else=f"repeat it with --attach-id {order.attach_id}" if not order.number else None)

    def send_batch(
        self, producer: Producer, results: Iterable[AnyResult], defaults: AttachDefaults, rejects: File
    ) -> list[AnyResult]:
        """Order that the tokens of *results* are used. A result without a usable token goes to *rejects*.

        Return the results that may be acknowledged: the broker has their order, or they are in *rejects*. Raises
        `OutputFailed`.
        """
        submitted: list[tuple[AnyResult, SubmittedOrder]] = []
        rejected: list[AnyResult] = []
        for result in results:
            try:
                submitted.append((result, self._submit(producer, None, order_of_result(result, defaults))))
            except RejectedOrder as error:
                request = f"request {result.request_id}"
                self.reject(None, str(error) if str(error).startswith(request) else f"{request}: {error}")
                rejected.append(result)
        rejects.append(rejected)
        or_else = "its result stays on the route"
        return rejected + [result for result, order in submitted if self._confirm(order, or_else=or_else)]

    def wait(self, results: Results, timeout: float, *, own_route: bool) -> None:
        """Print outcomes as they arrive, until every order has one or none has come for *timeout* seconds."""
        process_own(
            results,
            lambda result: isinstance(result, AttachResult) and result.attach_id in self.waiting,
            self._print_outcome,
            until=lambda: not self.waiting,
            timeout=timeout,
            each=True,
            own_route=own_route,
        )

    def interrupted(self) -> None:
        """Record that Ctrl-C was pressed: some orders may not have been sent."""
        self._failed += 1

    def all_well(self, *, waited: bool) -> bool:
        """True if every order was sent and, if the command *waited*, has a good outcome."""
        return not self._failed and not (waited and self.waiting)

    def reject(self, number: int | None, reason: str) -> None:
        """Report why an order is not sent: as JSON, or on standard error for people."""
        self._failed += 1
        if self._as_json:
            click.echo(json.dumps({"line": number, "status": "refused", "reason": reason}))
        else:
            click.echo(f"tokenferry: {f'line {number}: ' if number else ''}{reason}", err=True)

    def _submitted(self, producer: Producer, orders: Iterable[NumberedOrder]) -> Iterator[SubmittedOrder]:
        for number, order in orders:
            try:
                yield self._submit(producer, number, order)
            except RejectedOrder as error:
                self.reject(number, str(error))

    def _submit(self, producer: Producer, number: int | None, order: AttachOrder) -> SubmittedOrder:
        """Raises `RejectedOrder`."""
        if order.result.platform not in self._configuration.platforms:
            raise RejectedOrder("platform: is not configured")
        token = str(order.result.token)
        content = (token, digest(order.target))
        if self._orders.setdefault(order.attach_id, content) != content:
            raise RejectedOrder("attach_id: another order of this file has it; give each order its own")
        try:
            attach_id, message = producer.sealer.attach_message(
                order.result, order.target, lane=self._lane, reply_to=self.route, attach_id=order.attach_id
            )
        except (InvalidRequest, InvalidTarget) as error:
            raise RejectedOrder(str(error)) from None
        return SubmittedOrder(number, attach_id, token, producer.publisher.submit(message, timeout=self._timeout))

    def _confirm(self, order: SubmittedOrder, *, or_else: str | None) -> bool:
        """Wait until the broker has *order*, and report it. Return False if the broker did not confirm it."""
        try:
            wait(order.future, self._timeout)
        except PublishError as error:
            self.reject(order.number, f"{error}; {or_else}" if or_else else str(error))
            return False
        self.waiting.add(order.attach_id)
        if not self._quiet:
            self._print_sent(order)
        return True

    def _print_sent(self, order: SubmittedOrder) -> None:
        number, attach_id = order.number, order.attach_id
        if number:
            done = f"the order {attach_id} of line {number} was sent, and perhaps {WINDOW} behind it"
        else:
            done = f"the order {attach_id} was sent"
        line = {"line": number, "attach_id": attach_id, "token": order.token, "status": "sent"}
        print_line(json.dumps(line) if self._as_json else attach_id, done)

    def _print_outcome(self, result: AnyResult) -> None:
        assert isinstance(result, AttachResult)
        self.waiting.discard(result.attach_id)
        self._failed += not result.ok
        line = result.model_dump_json(exclude_none=True) if self._as_json else _one_line(result)
        print_line(line, f"the order {result.attach_id} has its outcome on route {self.route}")


def _one_line(result: AttachResult) -> str:
    """The outcome for a person."""
    failure = result.failure
    words = ["attached" if result.ok else "failed", result.attach_id, result.token, result.object_id]
    if failure is not None:
        by = f"by {failure.spent_by}" if failure.spent_by else None
        on = f"on {failure.spent_on}" if failure.spent_on else None
        words += [failure.code, failure.decline_code, failure.param, by, on]
    elif result.stored_id != result.object_id:
        words.append(result.stored_id)
    return " ".join(word for word in words if word)
