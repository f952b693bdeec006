"""From a row to an order the producer can seal, or the list of what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from tokenferry.contract.names import LANES, EndpointId, Lane
from tokenferry.contract.requests import InvalidRequest, Kind, Problem, TokenRequest, request_from
from tokenferry.contract.targets import TARGETS, InvalidTarget, Target, target_from
from tokenferry.inputs.columns import ABOUT_THE_ROW, shapes
from tokenferry.inputs.rows import Row
from tokenferry.inputs.shapes import Shape, planted
from tokenferry.producer import Order

KINDS: tuple[str, ...] = get_args(Kind)
_ENDPOINT_ID: TypeAdapter[str] = TypeAdapter(EndpointId)
_PLAIN_NAME = re.compile(r"[a-z_]{1,40}(\.[a-z_0-9]{1,40}){0,5}")


@dataclass(frozen=True)
class RowDefaults:
    """What applies to rows that do not say themselves."""

    platforms: Collection[str]
    """The names that are configured."""
    kind: str | None = None
    platform: str | None = None
    connected_account: str | None = None
    lane: Lane | None = None
    reply_to: str | None = None


def order_from(row: Row, defaults: RowDefaults) -> Order:
    """The order that *row* describes.

    Raises `InvalidRequest` with every field to put right.
    """
    kind = row.values.get("kind", defaults.kind)
    if kind is None:
        raise InvalidRequest([Problem("kind", "is required, in the row or as --kind for all rows")])
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidRequest([Problem("kind", f"must be one of {', '.join(KINDS)}")])
    problems = list(_about(row.values, defaults))
    request: TokenRequest | None = None
    target: Target | None = None
    try:
        fields, attach = (_typed if row.typed else _untyped)(row.values, kind)
    except InvalidRequest as error:
        raise InvalidRequest([*problems, *error.problems]) from None
    try:
        request = request_from(kind, fields)
    except InvalidRequest as error:
        problems += error.problems
    try:
        target = _target(attach)
        if target is not None and request is not None:
            target.check(request.kind)
    except InvalidTarget as error:
        problems.append(Problem("attach", str(error)))
    if problems or request is None:
        raise InvalidRequest(problems)
    return Order(
        request,
        platform=row.values.get("platform", defaults.platform),
        connected_account=row.values.get("connected_account", defaults.connected_account),
        lane=row.values.get("lane", defaults.lane),
        reply_to=defaults.reply_to,
        attach=target,  # type: ignore[arg-type]  # target_from answers one of the union's members
    )


def _about(values: Mapping[str, Any], defaults: RowDefaults) -> list[Problem]:
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


def _untyped(values: Mapping[str, str], kind: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Cells by dotted name as two nested objects, each cell as its field wants it."""
    to = values.get("attach.to", "")
    fields: dict[str, Any] = {}
    attach: dict[str, Any] = {}
    strangers = []
    for name, text in values.items():
        if name in ABOUT_THE_ROW:
            continue
        first, _, rest = name.partition(".")
        if first == "attach":
            shape = shapes()[to].at(rest) if to in TARGETS else None
            attach[rest] = shape.read(text) if shape else text
            continue
        if rest and first in KINDS and shapes()[first].at(rest):
            if first != kind:
                strangers.append(Problem(name, f"is given, and the row is a {kind}"))
                continue
            name = rest
        shape = shapes()[kind].at(name)
        if name in fields:
            strangers.append(Problem(name, "is given twice"))
        fields[name] = shape.read(text) if shape else text
    if strangers:
        raise InvalidRequest(strangers)
    return _planted(fields, shapes()[kind]), _planted(attach, shapes().get(to)) if attach else None


def _typed(values: Mapping[str, Any], kind: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A JSON object as fields and attach target: fields nested under the kind, or flat, or with dotted names."""
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
        attach = {**(attach or {}), **_planted(dotted, None)}
    return _planted(fields, shapes()[kind]), attach


def _planted(values: Mapping[str, Any], shape: Shape | None) -> dict[str, Any]:
    try:
        return planted(values, shape)
    except ValueError as error:
        place = str(error)
    # A name somebody invented is repeated only if it is a plain word: it may be a value that lost its way.
    raise InvalidRequest([Problem(place if _PLAIN_NAME.fullmatch(place) else "row", "is given twice")])


def _target(attach: dict[str, Any] | None) -> Target | None:
    if attach is None:
        return None
    if "to" not in attach:
        raise InvalidTarget("attach.to is required where another attach field is given")
    return target_from(attach)
