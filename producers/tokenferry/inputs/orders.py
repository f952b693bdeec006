"""Turns a row into an order that the producer can seal, or lists what is wrong with the row."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from tokenferry.contract.names import LANES, EndpointId, Lane
from tokenferry.contract.requests import InvalidRequest, Kind, Problem, TokenRequest, request_from
from tokenferry.contract.targets import AttachTarget, InvalidTarget, target_from
from tokenferry.inputs.columns import ABOUT_THE_ROW, shapes
from tokenferry.inputs.rows import Row
from tokenferry.inputs.shapes import DoubleField, Shape, nested, planted
from tokenferry.inputs.tidying import COMBINED, combined, tidied
from tokenferry.producer import Order

KINDS: tuple[str, ...] = get_args(Kind)
_ENDPOINT_ID: TypeAdapter[str] = TypeAdapter(EndpointId)
_PLAIN_NAME = re.compile(r"[a-z_]{1,40}(\.[a-z_0-9]{1,40}){0,5}")


@dataclass(frozen=True)
class RowDefaults:
    """What applies to rows that have no value of their own."""

    platforms: Collection[str]
    """The names of the configured platforms."""
    kind: str | None = None
    platform: str | None = None
    connected_account: str | None = None
    lane: Lane | None = None
    reply_to: str | None = None
    formats: Mapping[str, str] = field(default_factory=dict)
    """Forms of dates by dotted field name, for instance "MM/DD/YYYY". Others are read as usual."""


def order_from(row: Row, defaults: RowDefaults) -> Order:
    """Return the order that *row* describes. Raises `InvalidRequest` with everything that is wrong."""
    kind = row.values.get("kind", defaults.kind)
    if kind is None:
        raise InvalidRequest([Problem("kind", "is required, in the row or as --kind for all rows")])
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidRequest([Problem("kind", f"must be one of {', '.join(KINDS)}")])
    problems = _problems(row.values, defaults)
    request: TokenRequest | None = None
    target: AttachTarget | None = None
    try:
        fields, attach = _from_json(row.values, kind) if row.typed else _from_cells(row.values, kind)
        fields = tidied(combined(kind, fields, defaults.formats), shapes()[kind], defaults.formats)
        if attach is not None:
            attach = tidied(attach, shapes().get(str(attach.get("to"))), _below_attach(defaults.formats))
    except InvalidRequest as error:
        raise InvalidRequest([*problems, *error.problems]) from None
    try:
        request = request_from(kind, fields)
    except InvalidRequest as error:
        problems += error.problems
    try:
        if attach is not None and "to" not in attach:
            raise InvalidTarget("attach.to is required where another attach field is given")
        target = None if attach is None else target_in(attach)
        if target is not None and request is not None:
            target.check(request.kind)
    except InvalidTarget as error:
        problems += [_as_a_column(problem) for problem in error.problems]
    if problems or request is None:
        raise InvalidRequest(problems)
    return Order(
        request,
        platform=row.values.get("platform", defaults.platform),
        connected_account=row.values.get("connected_account", defaults.connected_account),
        lane=row.values.get("lane", defaults.lane),
        reply_to=defaults.reply_to,
        attach=target,
    )


def _as_a_column(problem: Problem) -> Problem:
    """*problem* of a target, with the name of the column: `attach.to`, `attach.customer`."""
    _, _, field = problem.field.partition(".")
    return replace(problem, field=f"attach.{field}") if field else problem


def target_in(fields: Mapping[str, Any]) -> AttachTarget:
    """Return the target that a JSON object describes. Raises `InvalidTarget`."""
    return target_from(fields)  # type: ignore[return-value]  # one of the union's members


def _problems(values: Mapping[str, Any], defaults: RowDefaults) -> list[Problem]:
    """What is wrong with the values that are not fields of the request."""
    problems = []
    platform = values.get("platform", defaults.platform)
    if platform is not None and platform not in defaults.platforms:
        known = ", ".join(sorted(defaults.platforms)) or "none"
        problems.append(Problem("platform", f"is not configured; there is: {known}"))
    elif platform is None and len(defaults.platforms) != 1:
        problems.append(Problem("platform", "is required: more than one is configured"))
    if (lane := values.get("lane", defaults.lane)) is not None and lane not in LANES:
        problems.append(Problem("lane", f"must be {' or '.join(LANES)}"))
    if (account := values.get("connected_account", defaults.connected_account)) is not None:
        try:
            _ENDPOINT_ID.validate_python(account)
        except ValidationError:
            problems.append(Problem("connected_account", "is not the id of an account (acct_...)"))
    return problems


def _below_attach(formats: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix("attach."): form for name, form in formats.items() if name.startswith("attach.")}


def _from_cells(cells: Mapping[str, str], kind: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the request's fields and the attach target of a CSV row, as two nested objects."""
    fields: dict[str, str] = {}
    attach: dict[str, str] = {}
    problems = []
    for name, text in cells.items():
        if name in ABOUT_THE_ROW:
            continue
        first, _, rest = name.partition(".")
        if first == "attach":
            attach[rest] = text
            continue
        if rest and first in KINDS and (shapes()[first].at(rest) or rest in COMBINED.get(first, ())):
            if first != kind:
                problems.append(Problem(name, f"is given, and the row is a {kind}"))
                continue
            name = rest
        if name in fields:
            problems.append(Problem(name, "is given twice"))
        fields[name] = text
    if problems:
        raise InvalidRequest(problems)
    target = _each_once(nested, attach, shapes().get(attach.get("to", ""))) if attach else None
    return _each_once(nested, fields, shapes()[kind]), target


def _from_json(values: Mapping[str, Any], kind: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the request's fields and the attach target of a JSON object.

    Fields are nested under the kind, or flat, or have dotted names.
    """
    attach = values.get("attach")
    if attach is not None and not isinstance(attach, dict):
        raise InvalidRequest([Problem("attach", "must be an object")])
    fields: dict[str, Any] = {}
    dotted: dict[str, Any] = {}
    for name, value in values.items():
        if name in ABOUT_THE_ROW or name == "attach":
            continue
        first, _, rest = name.partition(".")
        if first == "attach":
            dotted[rest] = value
        elif name == kind and isinstance(value, dict):
            fields = {**fields, **value}
        else:
            fields[rest if rest and first == kind else name] = value
    if dotted:
        attach = {**(attach or {}), **_each_once(planted, dotted, None)}
    return _each_once(planted, fields, shapes()[kind]), attach


def _each_once(
    nest: Callable[[Mapping[str, Any], Shape | None], dict[str, Any]], values: Mapping[str, Any], shape: Shape | None
) -> dict[str, Any]:
    """Make nested objects with *nest*. Raises `InvalidRequest` if a field is given twice."""
    try:
        return nest(values, shape)
    except DoubleField as error:
        name = str(error)
    # An invented name is repeated only if it is a plain word: it may be a value in the wrong place.
    raise InvalidRequest([Problem(name if _PLAIN_NAME.fullmatch(name) else "row", "is given twice")])
