"""Turns an order into a message that is ready to be sent: it is checked, and sealed or signed. No input, no output.

Invalid data raises `InvalidRequest`, which names the field and says what belongs there. Pydantic's own error never
leaves this module: it contains the value, which may be a card number that somebody pasted into the wrong field.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, TypedDict, TypeVar

from pydantic import ValidationError

from tokenferry import unsealed
from tokenferry.broker.depth import bound_of
from tokenferry.broker.publishing import Outgoing
from tokenferry.checks import check, check_onboarding, check_target
from tokenferry.configuration import Configuration
from tokenferry.contract.account_targets import AccountCreate, AccountUpdate, ExternalAccount
from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.envelope import LEGACY, Header
from tokenferry.contract.envelope2 import Header2, RequestHeader, TraceParent
from tokenferry.contract.lifetimes import DAY, WITH_CVC, longest_life
from tokenferry.contract.message import Message
from tokenferry.contract.names import LANES, Lane, Name, new_id
from tokenferry.contract.onboarding import DocumentHeader, Onboarding, OnboardingHeader, onboarding_from
from tokenferry.contract.plaintext import Plaintext2
from tokenferry.contract.queues import (
    ATTACH_TASK,
    ONBOARD_TASK,
    TOKENIZE_TASK,
    attach_queue,
    onboard_queue,
    tokenize_queue,
)
from tokenferry.contract.requests import (
    CardRequest,
    InvalidRequest,
    Kind,
    Problem,
    TokenRequest,
    field_names,
    problems_of,
)
from tokenferry.contract.results import TokenResult
from tokenferry.contract.targets import AttachTarget, InvalidTarget, Target, digest, target_from
from tokenferry.sealing import Recipient, Signer, id_in, seal, seal2, seal_onboarding, sign_attach

KEPT_WITH_CVC = WITH_CVC
"""Seconds that a request with a card verification code may wait. PCI DSS 3.3.1 forbids storing it, even encrypted."""
KEPT: dict[Lane, float] = {"realtime": 900.0, "bulk": 3 * 86_400.0}
"""Seconds that a request may wait by default: a person gives up after minutes, an import runs for days."""
LONGEST: Final = 1e10
"""Seconds: later than every date that a header may contain, and small enough to be added to one."""

_NAME: Final = "a name looks like main-eu: lower case letters, digits, - and _, at most 63 of them"
_ID: Final = "an id looks like req-7f3a: letters, digits, - and _, at most 64 of them"
LOOKS_LIKE: Final = MappingProxyType(
    {
        "token": "a token id looks like tok_1Nv0FG: letters, digits and underscores",
        "connected_account": "an account id looks like acct_1Nv0FG: letters, digits and underscores",
        "platform": _NAME,
        "reply_to": _NAME,
        "batch": _NAME,
        "traceparent": "it looks like 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01 (W3C Trace Context)",
        "request_id": _ID,
        "attach_id": _ID,
    }
)
"""What a field must look like, with an example."""

Read = TypeVar("Read", bound=Message)
Given = TypeVar("Given", bound=Message)


class _PlatformName(Message):
    platform: Name


class _Context(Message):
    """To what a message belongs. Version 1 has no place for it."""

    batch: Name | None = None
    traceparent: TraceParent | None = None


@dataclass(frozen=True)
class Order:
    """One request with the options of `send`, for `send_many`."""

    request: TokenRequest
    platform: str | None = None
    connected_account: str | None = None
    lane: Lane | None = None
    reply_to: str | None = None
    attach: AttachTarget | None = None
    request_id: str | None = None
    keep_seconds: float | None = None
    batch: str | None = None
    """The import or other run that it belongs to. In the header of version 2, and in its result."""
    traceparent: str | None = None
    """W3C Trace Context, version 00. In the header of version 2, and in the order to spend its token."""


class SendOptions(TypedDict, total=False):
    """The options of `send` and `request`: the fields of `Order`, by name."""

    platform: str | None
    """A platform of the configuration. Default: the only one."""
    connected_account: str | None
    """Create the token on this connected account (`acct_...`)."""
    lane: Lane | None
    """`realtime` (a person waits) or `bulk`."""
    request_id: str | None
    """To repeat a request whose outcome is unknown: same id, one token. Default: a new id."""
    keep_seconds: float | None
    """Seconds that it may wait before it expires."""
    batch: str | None
    """The import or other run that it belongs to; the result names it."""
    traceparent: str | None
    """W3C Trace Context, version 00."""


class OnboardOptions(TypedDict, total=False):
    """The options of `onboard`."""

    onboarding_id: str | None
    """Default: the document's `reference`, else a new one."""
    platform: str | None
    """A platform of the configuration. Default: the only one."""
    reply_to: str | None
    """The route of the result. Default: no result is sent."""
    keep_seconds: float | None
    """Seconds that it may wait before it expires. Default: three days."""
    progress: bool
    """Send a message for each step too; `Results` hands it to `on_progress`."""
    batch: str | None
    """The run that it belongs to; the result names it."""
    traceparent: str | None
    """W3C Trace Context, version 00."""


class Sealer:
    """Turns an order into a message that is ready to be sent. Both producers use it."""

    def __init__(
        self, configuration: Configuration, *, recipient: Recipient | None = None, signer: Signer | None = None
    ) -> None:
        """*recipient*, *signer*: default: the keys that *configuration* names.

        Raises `UnusableKey` if a key file is missing, readable by others, or not the key it should be.
        """
        self.configuration = configuration
        self.version = configuration.producer.written
        keys = configuration.keys
        self.recipient = recipient or Recipient.load(configuration.path(keys.recipient))
        self.signer = signer or Signer.load(configuration.path(keys.producer_signing_key))

    def platform(self, name: str | None) -> str:
        """Return the name of the platform: *name*, or without one the only platform that is configured.

        Raises `InvalidConfiguration`, and `InvalidRequest` if *name* cannot be a name.
        """
        return self.configuration.meant(name if name is None else validated(_PlatformName, platform=name).platform)

    @property
    def group(self) -> str:
        """The group that version 2 claims."""
        return self.configuration.producer.group or LEGACY

    def message(self, order: Order, *, generation: int = 1) -> tuple[str, Outgoing]:
        """Check and seal one order. Return its request id and the message.

        *generation*: 2 or more begins an id again whose last outcome has left nothing behind (docs/formats.md).

        Raises `InvalidRequest` and `InvalidTarget` (field and reason, never the value), and `InvalidConfiguration`.
        """
        request = _is_a(TokenRequest, order.request, "request", "request_from(kind, fields)")
        platform = self.platform(order.platform)
        lane: Lane = order.lane or ("realtime" if request.carries_cvc else "bulk")
        live = self.configuration.platform(platform).live
        problems = (
            *check(request, today=datetime.now(UTC).date(), live=live),
            *_problems(order, lane, self._journal_days),
            *self._generation_problems(generation),
        )
        if problems:
            raise InvalidRequest(problems)
        attach = None if order.attach is None else _checked(order.attach, request.kind)
        if attach is not None and (trouble := unsealed.trouble_in(attach, request)):
            raise InvalidRequest([Problem("attach", trouble)])
        longest = longest_life(self._journal_days)
        keep = min(KEPT[lane], longest) if order.keep_seconds is None else order.keep_seconds
        if request.carries_cvc:
            keep = min(keep, KEPT_WITH_CVC)
        fields = {
            **self._header(platform, lane, order.reply_to, keep),
            "request_id": order.request_id or new_id(),
            "kind": request.kind,
            "connected_account": order.connected_account,
        }
        context = validated(_Context, batch=order.batch, traceparent=order.traceparent)
        if self.version == 2:
            fields["generation"] = generation
        header, body = self._sealed(request, attach, fields, context)
        message = self._outgoing(tokenize_queue(lane, platform), TOKENIZE_TASK, header, body)
        if request.carries_cvc:  # without `expires_at` it is never stored in an outbox
            return header.request_id, replace(message, keep_seconds=keep)
        return header.request_id, replace(message, expires_at=header.expires_at)

    def _generation_problems(self, generation: int) -> Iterator[Problem]:
        if generation != 1 and self.version == 1:
            yield Problem("generation", "needs envelope = 2 below [producer]: version 1 cannot say it")

    def _sealed(
        self, request: TokenRequest, attach: AttachTarget | None, fields: dict[str, Any], context: _Context
    ) -> tuple[RequestHeader, str]:
        """Seal *request* in the version that is configured. Return the header and the text."""
        to, signer = self.recipient, self.signer
        if self.version == 1:
            header = validated(Header, **fields, attach_digest=digest(attach) if attach else None)
            return header, seal(request, header, to=to, signer=signer, attach=attach).text()
        content = Plaintext2.of(request, attach)
        header2 = validated(
            Header2,
            **fields,
            **context.model_dump(),
            group=self.group,
            cvc=request.carries_cvc,
            operations=attach.operations() if attach else (),
            plan_digest=content.plan_digest(),
        )
        return header2, seal2(content, header2, to=to, signer=signer).text()

    def attach_message(
        self,
        result: TokenResult,
        target: AttachTarget,
        *,
        lane: Lane = "bulk",
        reply_to: str | None,
        attach_id: str | None,
        batch: str | None = None,
        traceparent: str | None = None,
    ) -> tuple[str, Outgoing]:
        """Sign an order to use the token of *result* for *target*. Return its attach id and the message.

        *batch*, *traceparent*: as in `Order`.

        Raises `InvalidRequest` if *result* has no token or an id is not valid. Raises `InvalidTarget` if the target
        does not take tokens of this kind, or contains a card number. Both name field and reason, never the value.
        """
        result = _is_a(TokenResult, result, "result", "Results, or request(...)")
        result = validated(TokenResult, **result.model_dump(warnings=False))
        if result.token is None:
            raise InvalidRequest([Problem("token", f"request {result.request_id} has none")])
        target = _checked(target, result.kind)
        if trouble := unsealed.trouble_in(target):
            raise InvalidTarget(f"{target.to}: {trouble}")
        context = validated(_Context, batch=batch, traceparent=traceparent)
        longest = longest_life(self._journal_days)
        made_at = (int(time.time()) if result.created is None else result.created) * 1000
        request = validated(
            AttachRequest,
            version=self.version,
            attach_id=attach_id or new_id(),
            request_id=result.request_id,
            token=result.token,
            kind=result.kind,
            platform=result.platform,
            lane=lane,
            connected_account=result.connected_account,
            target=target,
            reply_to=reply_to,
            token_created_at=made_at,
            attach_before=made_at + int(min(self.configuration.worker.token_lifetime, longest) * 1000),
            signer_id=id_in(self.version, self.signer.signer_id),
            display=result.display,
            group=self.group if self.version == 2 else LEGACY,
            **(context.model_dump() if self.version == 2 else {}),
        )
        body = sign_attach(request, self.signer).text()
        queue = attach_queue(request.lane, request.platform)
        return request.attach_id, Outgoing.task(queue, ATTACH_TASK, request.attach_id, body)

    def onboarding_message(
        self,
        document: Onboarding,
        *,
        onboarding_id: str | None = None,
        platform: str | None = None,
        reply_to: str | None = None,
        keep_seconds: float | None = None,
        progress: bool = False,
        batch: str | None = None,
        traceparent: str | None = None,
    ) -> tuple[str, str, Outgoing]:
        """Check and seal a whole account. Return the onboarding id, the request id of this message, and the message.

        *batch*, *traceparent*: as in `Order`.

        Raises `InvalidRequest` (field and reason, never the value) and `InvalidConfiguration`.
        """
        document = _is_a(Onboarding, document, "document", "onboarding_from(fields)")
        name = self.platform(platform)
        live = self.configuration.platform(name).live
        onboarding_id = onboarding_id or document.reference or new_id("onb")
        settled = {"reference": onboarding_id, "progress": progress or document.progress}
        document = onboarding_from({**dict(document), **settled})
        if problems := check_onboarding(document, today=datetime.now(UTC).date(), live=live):
            raise InvalidRequest(problems)
        keep = self._onboarding_keep(keep_seconds)
        context = validated(_Context, batch=batch, traceparent=traceparent)
        header, body = self._sealed_document(
            document, {**self._header(name, "bulk", reply_to, keep), "request_id": new_id()}, context
        )
        message = self._outgoing(onboard_queue(name), ONBOARD_TASK, header, body)
        return onboarding_id, header.request_id, replace(message, expires_at=header.expires_at)

    @property
    def _journal_days(self) -> float:
        return self.configuration.store.journal_days

    def _sealed_document(
        self, document: Onboarding, fields: dict[str, Any], context: _Context
    ) -> tuple[DocumentHeader, str]:
        to, signer = self.recipient, self.signer
        if self.version == 1:
            header = validated(OnboardingHeader, **fields)
            return header, seal_onboarding(document, header, to=to, signer=signer).text()
        about = {"group": self.group, "kind": "onboarding", "progress": bool(document.progress), **context.model_dump()}
        header2 = validated(Header2, **fields, **about)
        return header2, seal2(Plaintext2.of_document(document), header2, to=to, signer=signer).text()

    def _onboarding_keep(self, keep_seconds: float | None) -> float:
        if keep_seconds is None:
            return KEPT["bulk"]
        days = self.configuration.store.onboarding_days
        if problem := _trouble_with(keep_seconds):
            raise InvalidRequest([problem])
        if keep_seconds > days * 86_400:
            reason = f"is longer than finished steps are remembered: [store] onboarding_days is {days:g}"
            raise InvalidRequest([Problem("keep_seconds", reason)])
        return keep_seconds

    def _header(self, platform: str, lane: Lane, reply_to: str | None, keep: float) -> dict[str, Any]:
        """The fields that both kinds of headers have. The message expires after *keep* seconds."""
        issued = time.time()
        return {
            "suite": self.recipient.suite,
            "key_id": id_in(self.version, self.recipient.key_id),
            "platform": platform,
            "lane": lane,
            "reply_to": reply_to,
            "issued_at": int(issued * 1000),
            "expires_at": int((issued + keep) * 1000),
            "producer_id": id_in(self.version, self.signer.signer_id),
        }

    def _outgoing(self, queue: str, task: str, header: RequestHeader | OnboardingHeader, body: str) -> Outgoing:
        message = Outgoing.task(queue, task, header.request_id, body)
        return replace(message, bound=bound_of(queue, self.configuration), reply_to=header.reply_to)


def _is_a(wanted: type[Given], given: object, name: str, maker: str) -> Given:
    """Return *given*. Raises `InvalidRequest`, which says how to make one, if it is a dict or anything else."""
    if isinstance(given, wanted):
        return given
    reason = f"must be a {wanted.__name__}, not a {type(given).__name__}; get one from {maker}"
    raise InvalidRequest([Problem(name, reason)])


def _problems(order: Order, lane: Lane, journal_days: float) -> Iterator[Problem]:
    """What is wrong with the options of *order*. `check` looks at the request itself."""
    request = order.request
    if lane not in LANES:
        yield Problem("lane", f"must be {' or '.join(LANES)}")
    if request.carries_cvc and lane != "realtime":
        yield Problem(f"{request.kind}.cvc", "a card verification code may only travel in the realtime lane")
    if request.needs_connected_account and order.connected_account is None:
        yield Problem(f"{request.kind}.customer", "copying a saved card or bank account needs a connected account")
    match request, order.attach:
        case CardRequest(number=str(), currency=None), ExternalAccount() | AccountCreate() | AccountUpdate() as target:
            yield Problem("card.currency", f"is required for {target.to}: which payouts the debit card receives")
    if order.keep_seconds is not None:
        if problem := _trouble_with(order.keep_seconds):
            yield problem
        elif order.keep_seconds > (longest := longest_life(journal_days)):
            days = f"{longest / DAY:g} days, because [store] journal_days is {journal_days:g}"
            yield Problem("keep_seconds", f"is longer than workers accept: {days}")


def _trouble_with(keep_seconds: object) -> Problem | None:
    """Return what is wrong with a time to wait, if anything. None, not 0, stands for the default."""
    match keep_seconds:
        case bool():
            pass
        case int() | float() if 0 < keep_seconds < LONGEST:  # false for NaN, too
            return None
    reason = "must be a number of seconds above 0 that ends before 2100; leave it out for the default"
    return Problem("keep_seconds", reason)


def validated(model: type[Read], **fields: Any) -> Read:
    """Make a *model* of *fields*. Raises `InvalidRequest`, which says what each field must look like."""
    try:
        return model(**fields)
    except ValidationError as error:
        problems = problems_of(error, under="", names=field_names(model))
    # Outside the handler: else `__context__` would keep pydantic's error, which contains the input.
    raise InvalidRequest(map(_explained, problems))


def _explained(problem: Problem) -> Problem:
    field = problem.field.removeprefix(".")
    if field == "expires_at":
        return Problem("keep_seconds", "must be seconds, and end between 1970 and 2100")
    return Problem(field, f"{problem.reason}; {LOOKS_LIKE[field]}" if field in LOOKS_LIKE else problem.reason)


def _checked(target: AttachTarget, kind: Kind) -> AttachTarget:
    """Return the target, validated again: a copy that was changed with `model_copy` was never validated."""
    target = _is_a(Target, target, "attach", "target_from(fields)")  # type: ignore[assignment]
    validated = target_from(target.model_dump(exclude_none=True, warnings=False))
    validated.check(kind)
    if found := check_target(validated, today=datetime.now(UTC).date()):
        raise InvalidTarget(", ".join(map(str, found)))
    return validated  # type: ignore[return-value]  # one of the union's members
