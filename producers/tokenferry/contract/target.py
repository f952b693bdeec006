"""The interface of targets: the kinds they take, the call that spends a token, and the object that it locks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote, unquote

from tokenferry.contract.form import Pair, encode, flatten
from tokenferry.contract.message import Input
from tokenferry.contract.problems import InvalidInput, Problem
from tokenferry.contract.problems import InvalidTarget as InvalidTarget
from tokenferry.contract.requests import Kind

_ID = re.compile(r"[0-9]*[A-Za-z_][A-Za-z0-9_]*")
_MADE_BEFORE = "made_before"
"""Stands for the id of the object that the first call makes."""


@dataclass(frozen=True, slots=True)
class TargetCall:
    """A POST: where, and the form-encoded body."""

    path: str
    form: str


class Target(Input):
    """The interface of every target. Prints its kind and the ids it works on, not who they belong to."""

    kinds: ClassVar[frozenset[Kind]]
    """The kinds of token that can be spent here."""
    creates_account: ClassVar[bool] = False
    """Creating connected accounts has a rate limit of its own."""
    warning: ClassVar[str | None] = None
    """What a caller should know before choosing this target."""
    budget: ClassVar[str]
    parameter: ClassVar[str] = "source"
    local: ClassVar[frozenset[str]] = frozenset({"to"})
    """Fields that are not sent: they are in the path, or addressed to us."""

    to: str

    @classmethod
    def place(cls) -> str:
        return str(cls.model_fields["to"].default)

    @classmethod
    def invalid(cls, problems: tuple[Problem, ...]) -> InvalidInput:
        return InvalidTarget(", ".join(map(str, problems)), problems)

    def endpoint(self) -> str:
        """The name of the rate budget its call counts against."""
        return self.budget

    def check(self, kind: Kind) -> None:
        """Raise `InvalidTarget` unless a token of this kind can be spent here with these options."""
        if kind not in self.kinds:
            raise InvalidTarget(f"{self.to} takes {' or '.join(sorted(self.kinds))} tokens; choose another target")
        if reason := self.refusal(kind):
            raise InvalidTarget(f"{self.to}: {reason}")

    def call(self, token: str, kind: Kind) -> TargetCall:
        """The POST that spends the token."""
        self.check(kind)
        sent = flatten(self, without=self.local)
        return TargetCall(self.path(), encode([*self.spent(id_of(token, "token"), kind), *sent]))

    def follow_up(self, object_id: str) -> TargetCall | None:
        """A second POST, without the token, on the object the first one made; None where there is none."""
        return None

    def serialised_on(self) -> str | None:
        """The id of the object whose writes must not overlap (they lock it); None when something new is made."""
        return None

    def operations(self) -> tuple[str, ...]:
        """Return what spending the token calls, as methods and path templates, sorted.

        >>> from tokenferry.contract.targets import CustomerSource
        >>> CustomerSource(customer="cus_1").operations()
        ('POST /v1/customers/{customer}/sources',)
        """
        given = {name: getattr(self, name, None) for name in self.local - {"to"}}
        template = self.model_copy(update={name: f"{{{name}}}" for name, at in given.items() if isinstance(at, str)})
        paths = [unquote(template.path())]
        if (follow_up := self.follow_up(_MADE_BEFORE)) is not None:
            paths.append(follow_up.path.replace(_MADE_BEFORE, "{made_before}"))
        return tuple(sorted({f"POST {path}" for path in paths}))

    def refusal(self, kind: Kind) -> str | None:
        """Return why this kind cannot be spent with these options, or None."""
        return None

    def path(self) -> str:
        raise NotImplementedError

    def spent(self, token: str, kind: Kind) -> list[Pair]:
        """The pairs of the form that carry the token."""
        return [(self.parameter, token)]

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name in ("to", "customer", "account", "person", "payment_intent"):
            if getattr(self, name, None) is not None:
                yield name, getattr(self, name)


def path_of(*segments: str) -> str:
    """Return a path; ids are quoted, so that they cannot leave their segment."""
    return "/".join(["/v1", *(quote(segment, safe="") for segment in segments)])


def id_of(value: str, what: str) -> str:
    if len(value) > 255 or not _ID.fullmatch(value):
        raise InvalidTarget(f"the {what} id must be letters, digits and underscores, and not digits alone")
    return value
