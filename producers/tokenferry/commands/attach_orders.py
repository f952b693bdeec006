"""Orders to spend tokens, from a command line or from lines of JSON: what each says, or what is wrong with it."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, get_args

from pydantic import Field, TypeAdapter, ValidationError

from tokenferry.contract.names import LETTERS, EndpointId, Id, Name, TokenId, new_id
from tokenferry.contract.requests import Kind
from tokenferry.contract.results import AnyResult, TokenResult, parse_result
from tokenferry.contract.targets import TARGETS, AttachTarget, InvalidTarget, digest, target_from
from tokenferry.inputs.jsonl_rows import parsed
from tokenferry.inputs.lines import Line
from tokenferry.inputs.shapes import planted, shape_of

KINDS: Final[tuple[str, ...]] = get_args(Kind)
FIELDS: Final = ("token", "kind", "target", "platform", "connected_account", "attach_id", "created")
"""Of a line that is an order."""
READ: Final = {
    "token": TokenId,
    "platform": Name,
    "connected_account": EndpointId,
    "attach_id": Id,
    "request_id": Id,
    "created": Annotated[int, Field(strict=True, ge=0, le=4_102_444_800)],
}
NEITHER: Final = "is neither an order nor a token's result"


class RefusedOrder(ValueError):
    """This order cannot be sent: which field, and why. Never quotes a value."""


@dataclass(frozen=True)
class AttachOrder:
    """One order: the token as a result names it, and what to spend it on."""

    result: TokenResult
    target: AttachTarget
    attach_id: str


@dataclass(frozen=True)
class AttachDefaults:
    """What applies to lines that do not say themselves."""

    kind: str | None = None
    target: AttachTarget | None = None
    platform: str | None = None
    connected_account: str | None = None
    again: bool = False
    """Whether results get orders with new ids, though an earlier run may have ordered the same."""


def order_of_line(line: Line, defaults: AttachDefaults) -> AttachOrder:
    """The order a line of JSON describes: an order, a token's result, or a line of `tokenferry import --results`.

    Raises `RefusedOrder`.
    """
    if line.trouble is not None:
        raise RefusedOrder(line.trouble)
    given = parsed(line.text)
    if not isinstance(given, dict):
        raise RefusedOrder("the line is not a JSON object")
    if "type" in given:
        return order_of_result(_result_of(line.text), defaults)
    if "status" in given and "row" in given:
        if not given.get("token") or given["status"] != "tokenized":
            raise RefusedOrder("this row has no token that is still to be spent")
        known = ("token", "kind", "platform", "connected_account", "created", "request_id")
        return order_from({name: given[name] for name in known if given.get(name)}, defaults)
    if strangers := sorted(set(given) - set(FIELDS)):
        what = f"{strangers[0]}: unknown field" if re.fullmatch("[A-Za-z_]{1,40}", strangers[0]) else NEITHER
        raise RefusedOrder(f"{what}; known are {', '.join(FIELDS)}")
    return order_from({name: value for name, value in given.items() if value is not None}, defaults)


def order_from(given: Mapping[str, Any], defaults: AttachDefaults) -> AttachOrder:
    """The order that fields describe; with a "request_id" they are of a row that an import has made its token of.

    Raises `RefusedOrder`.
    """
    kind = given.get("kind", defaults.kind)
    if kind not in KINDS:
        raise RefusedOrder(f"kind: must be one of {', '.join(KINDS)}; in the line, or as --kind for all of them")
    if "token" not in given:
        raise RefusedOrder("token: is required")
    platform = given.get("platform", defaults.platform)
    if platform is None:
        raise RefusedOrder("platform: is required, more than one is configured; in the line, or as --platform")
    attach_id = given.get("attach_id") or new_id()
    fields = {"connected_account": defaults.connected_account, **given, "platform": platform, "attach_id": attach_id}
    for name, wanted in READ.items():
        if fields.get(name) is not None:
            _check(name, wanted, fields[name])
    request_id = fields.get("request_id", attach_id)
    result = TokenResult(
        outcome_id=f"{attach_id}:token",
        request_id=request_id,
        kind=kind,
        platform=platform,
        connected_account=fields["connected_account"],
        settled_at=int(time.time() * 1000),
        token=fields["token"],
        created=fields.get("created"),
    )
    target = _checked(_target(given.get("target"), defaults), kind)
    if "request_id" in given and not defaults.again:
        attach_id = id_for(result, target)
    return AttachOrder(result, target, attach_id)


def order_of_result(result: AnyResult, defaults: AttachDefaults) -> AttachOrder:
    """The order to spend the token of *result* on the target of *defaults*. Raises `RefusedOrder`."""
    if not isinstance(result, TokenResult):
        raise RefusedOrder(f"is the result of an {result.type}, which has spent its token already")
    if result.token is None:
        why = result.failure.code if result.failure else "unknown"
        raise RefusedOrder(f"request {result.request_id} has no token ({why})")
    _check("token", TokenId, result.token)
    target = _checked(_target(None, defaults), result.kind)
    return AttachOrder(result, target, new_id() if defaults.again else id_for(result, target))


def id_for(result: TokenResult, target: AttachTarget) -> str:
    """The attach id of the order to spend the token of *result* on *target*: the same in every run.

    So an order that is sent twice, because a run was killed in between, is one order to the workers. It stands for all
    that an attach id stands for there: another target, or another account, is another order.
    """
    account = result.connected_account or ""
    named = (result.platform, account, result.kind, digest(target), result.token or "", result.request_id)
    found = hashlib.sha256("|".join(("tokenferry/v1/attach-id", *named)).encode()).hexdigest()[:32]
    return f"att-{found.translate(LETTERS)}"


def target_of(to: str | None, settings: tuple[str, ...], told: Mapping[str, Any] | None) -> AttachTarget | None:
    """The target that `--to` and `--set name=value` describe, or one read from JSON. Raises `RefusedOrder`."""
    if told is not None:
        return _read(told)
    if to is None:
        if settings:
            raise RefusedOrder("--set says something about a target; name it with --to")
        return None
    shape = shape_of(TARGETS[to])
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        here = shape.at(name) if equals else None
        if here is None or name == "to":
            known = ", ".join(sorted({leaf.partition(".")[0] for leaf in shape.leaves()} - {"to"}))
            raise RefusedOrder(f"--set must be NAME=VALUE with a field of {to}: {known}")
        if name in values:
            raise RefusedOrder(f"--set {name} is given twice")
        values[name] = here.read(text)
    try:
        fields = planted(values, shape)
    except ValueError as error:
        raise RefusedOrder(f"--set {error} is given twice") from None
    return _read({"to": to, **fields})


def _result_of(text: str) -> AnyResult:
    try:
        return parse_result(text)
    except ValidationError:
        raise RefusedOrder(NEITHER) from None


def _target(told: Any, defaults: AttachDefaults) -> AttachTarget:
    target = defaults.target if told is None else _read(told)
    if target is None:
        raise RefusedOrder('target: is required; in the line ("target": {"to": ...}), or as --to for all of them')
    return target


def _read(told: Any) -> AttachTarget:
    if not isinstance(told, Mapping):
        raise RefusedOrder('target: must be an object, {"to": "customer_source", "customer": "cus_..."}')
    try:
        return target_from(told)  # type: ignore[return-value]  # one of the union's members
    except InvalidTarget as error:
        raise RefusedOrder(str(error)) from None


def _checked(target: AttachTarget, kind: Any) -> AttachTarget:
    try:
        target.check(kind)
    except InvalidTarget as error:
        raise RefusedOrder(str(error)) from None
    return target


def _check(name: str, wanted: Any, value: Any) -> None:
    try:
        TypeAdapter(wanted).validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_context=False, include_url=False)[0]
        own = problem["type"] == "value_error"
        reason = problem["msg"].removeprefix("Value error, ") if own else "is no such id or name"
    else:
        return
    raise RefusedOrder(f"{name}: {reason}")


def without_empty(lines: Iterator[Line]) -> Iterator[Line]:
    """The lines that say something."""
    return (line for line in lines if line.trouble is not None or line.text.strip())
