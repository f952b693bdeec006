"""Reads attach orders: from a line of JSON, from a result, or from options of the command line."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from tokenferry.contract.message import Message
from tokenferry.contract.names import LETTERS, EndpointId, Id, Name, TokenId, new_id
from tokenferry.contract.requests import InvalidRequest, Kind
from tokenferry.contract.results import AnyResult, TokenResult, parse_result
from tokenferry.contract.targets import TARGETS, AttachTarget, InvalidTarget, digest
from tokenferry.inputs.json_values import parsed
from tokenferry.inputs.lines import Line
from tokenferry.inputs.orders import KINDS, target_in
from tokenferry.inputs.shapes import DoubleField, nested, shape_of
from tokenferry.ordering import validated

FIELDS: Final = ("token", "kind", "target", "platform", "connected_account", "attach_id", "created")
"""The fields of a line that is an order."""
ROW_FIELDS: Final = ("token", "kind", "platform", "connected_account", "created", "request_id")
"""The fields that are used of a line of `tokenferry import --results`."""
NEITHER: Final = "is neither an order nor a token's result"


class RejectedOrder(ValueError):
    """This order cannot be sent. The message says which field and why, and never quotes a value."""


@dataclass(frozen=True)
class AttachOrder:
    """One order: a token, in the form of its result, and what to use it for."""

    result: TokenResult
    target: AttachTarget
    attach_id: str


@dataclass(frozen=True)
class AttachDefaults:
    """What applies to lines that have no value of their own."""

    kind: str | None = None
    target: AttachTarget | None = None
    platform: str | None = None
    connected_account: str | None = None
    again: bool = False
    """True: results get orders with new ids, even if an earlier run ordered the same."""


class _OrderFields(Message):
    token: TokenId
    kind: Kind
    platform: Name
    connected_account: EndpointId | None = None
    attach_id: Id
    request_id: Id | None = None
    created: Annotated[int, Field(strict=True, ge=0, le=4_102_444_800)] | None = None


def order_of_line(line: Line, defaults: AttachDefaults) -> AttachOrder:
    """Read a line of JSON: an order, the result of a token, or a line of `tokenferry import --results`.

    Raises `RejectedOrder`.
    """
    if line.trouble is not None:
        raise RejectedOrder(line.trouble)
    fields = parsed(line.text)
    if not isinstance(fields, dict):
        raise RejectedOrder("the line is not a JSON object")
    if "type" in fields:
        try:
            result = parse_result(line.text)
        except ValidationError:
            raise RejectedOrder(NEITHER) from None
        return order_of_result(result, defaults)
    if "status" in fields and "row" in fields:
        if not fields.get("token") or fields["status"] != "tokenized":
            raise RejectedOrder("this row has no token that is still to be used")
        return order_from({name: fields[name] for name in ROW_FIELDS if fields.get(name)}, defaults)
    if unknown := sorted(set(fields) - set(FIELDS)):
        reason = f"{unknown[0]}: unknown field" if re.fullmatch("[A-Za-z_]{1,40}", unknown[0]) else NEITHER
        raise RejectedOrder(f"{reason}; known are {', '.join(FIELDS)}")
    return order_from({name: value for name, value in fields.items() if value is not None}, defaults)


def order_from(fields: Mapping[str, Any], defaults: AttachDefaults) -> AttachOrder:
    """Make the order that *fields* describe. With "request_id" they are of a row that an import has tokenized.

    Raises `RejectedOrder`.
    """
    kind = fields.get("kind", defaults.kind)
    if kind not in KINDS:
        raise RejectedOrder(f"kind: must be one of {', '.join(KINDS)}; in the line, or as --kind for all of them")
    if "token" not in fields:
        raise RejectedOrder("token: is required")
    platform = fields.get("platform", defaults.platform)
    if platform is None:
        raise RejectedOrder("platform: is required, more than one is configured; in the line, or as --platform")
    attach_id = fields.get("attach_id") or new_id()
    given = {name: value for name, value in fields.items() if name != "target"}
    given |= {"kind": kind, "platform": platform, "attach_id": attach_id}
    try:
        read = validated(_OrderFields, **{"connected_account": defaults.connected_account, **given})
    except InvalidRequest as error:
        raise RejectedOrder(str(error)) from None
    result = TokenResult(
        outcome_id=f"{attach_id}:token",
        request_id=read.request_id or attach_id,
        settled_at=int(time.time() * 1000),
        **read.model_dump(exclude={"attach_id", "request_id"}),
    )
    target = _target(fields.get("target"), read.kind, defaults)
    if "request_id" in fields and not defaults.again:
        attach_id = id_for(result, target)
    return AttachOrder(result, target, attach_id)


def order_of_result(result: AnyResult, defaults: AttachDefaults) -> AttachOrder:
    """Make the order to use the token of *result* for the default target. Raises `RejectedOrder`."""
    if not isinstance(result, TokenResult):
        raise RejectedOrder(f"is the result of an {result.type}, which has used its token already")
    if result.token is None:
        reason = result.failure.code if result.failure else "unknown"
        raise RejectedOrder(f"request {result.request_id} has no token ({reason})")
    target = _target(None, result.kind, defaults)
    return AttachOrder(result, target, new_id() if defaults.again else id_for(result, target))


def id_for(result: TokenResult, target: AttachTarget) -> str:
    """The attach id of the order to use the token of *result* for *target*. It is the same in every run.

    So an order that is sent twice, because a run was killed in between, is one order to the workers. Everything that
    makes an order is in it: with another target, or another account, it is another order.
    """
    account = result.connected_account or ""
    parts = (result.platform, account, result.kind, digest(target), result.token or "", result.request_id)
    found = hashlib.sha256("|".join(("tokenferry/v1/attach-id", *parts)).encode()).hexdigest()[:32]
    return f"att-{found.translate(LETTERS)}"


def target_from_options(
    to: str | None, settings: tuple[str, ...], json_object: Mapping[str, Any] | None
) -> AttachTarget | None:
    """The target of `--to` and `--set name=value`, or that of `--target-json`. Raises `RejectedOrder`."""
    if json_object is not None:
        return _read(json_object)
    if to is None:
        if settings:
            raise RejectedOrder("--set is a field of a target; name the target with --to")
        return None
    shape = shape_of(TARGETS[to])
    texts: dict[str, str] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name == "to" or shape.at(name) is None:
            known = ", ".join(sorted({leaf.partition(".")[0] for leaf in shape.leaves()} - {"to"}))
            raise RejectedOrder(f"--set must be NAME=VALUE with a field of {to}: {known}")
        if name in texts:
            raise RejectedOrder(f"--set {name} is given twice")
        texts[name] = text
    try:
        return _read({"to": to, **nested(texts, shape)})
    except DoubleField as error:
        raise RejectedOrder(f"--set {error} is given twice") from None


def _target(fields: Any, kind: Kind, defaults: AttachDefaults) -> AttachTarget:
    """The target of a line, or the default one, for a token of this kind."""
    if fields is None and defaults.target is None:
        raise RejectedOrder('target: is required; in the line ("target": {"to": ...}), or as --to for all of them')
    target = defaults.target if fields is None else _read(fields)
    assert target is not None
    try:
        target.check(kind)
    except InvalidTarget as error:
        raise RejectedOrder(str(error)) from None
    return target


def _read(fields: Any) -> AttachTarget:
    if not isinstance(fields, Mapping):
        raise RejectedOrder('target: must be an object, {"to": "customer_source", "customer": "cus_..."}')
    try:
        return target_in(fields)
    except InvalidTarget as error:
        raise RejectedOrder(str(error)) from None
