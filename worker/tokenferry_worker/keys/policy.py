"""Who may what: one TOML file on the workers' side, by signer (docs/formats.md, "The policy").

A signature says who sent a message. The policy says what that signer may ask for. Every check here returns the line of
the policy that is missing, such as `roles.order`, or None where everything asked for is granted.
"""

from __future__ import annotations

import logging
import stat
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, ValidationError

from tokenferry.contract.envelope import Suite
from tokenferry.contract.message import Message
from tokenferry.contract.names import Lane, Name
from tokenferry.contract.problems import reason_of
from tokenferry.contract.queues import PRIVATE
from tokenferry.contract.requests import Kind
from tokenferry.contract.target import Target
from tokenferry.contract.targets import OPERATIONS, TARGETS
from tokenferry.sealing import UnusableKey, read_key_file

log = logging.getLogger(__name__)

LEGACY: Final = "legacy"
"""The group of everything that was begun before there were groups. Its ids keep their first derivation."""
RECHECK_SECONDS: Final = 0.2
"""How often a worker looks whether the file has changed: sooner than the next command of a person can send anything."""

Role = Literal["seal", "onboard", "order", "worker"]
"""`seal`: send requests. `onboard`: send whole accounts. `order`: order a token to be spent. `worker`: order what
requests that it has opened ask for."""
Right = Literal["clone_saved_card", "extra_fields"]
Pattern = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9_-]{1,255}\*?|\*)$")]
"""A name, a beginning of names (`shop-*`), or everything (`*`)."""
Everything: Final[tuple[Pattern, ...]] = ("*",)

DESTINATIONS: Final = ("account", "customer", "payment_intent", "person", "on_behalf_of")
"""Fields of a target that name an object to be written to, or paid."""


class TargetGrant(Message):
    """A target that plans and orders of this signer may name."""

    to: str
    max_amount: dict[str, Annotated[int, Field(ge=0)]] | None = None
    """The most for one call, by currency, in its smallest unit. Another currency is refused. None: no limit."""
    destinations: tuple[Pattern, ...] = Everything


class Grant(Message):
    """What one signer may."""

    name: Annotated[str, StringConstraints(max_length=100)]
    """For people."""
    group: Name
    """Who shares ids with this signer."""
    roles: tuple[Role, ...]
    platforms: tuple[Pattern, ...]
    connected_accounts: tuple[Pattern, ...] = ()
    """Without an entry: requests for the platform itself only."""
    kinds: tuple[Kind, ...] | None = None
    lanes: tuple[Lane, ...] | None = None
    reply_routes: tuple[Pattern, ...] | None = None
    """None: routes that begin with the group's name, those of imports, and private ones, whose names are random."""
    longest_life_hours: Annotated[float, Field(gt=0)] | None = None
    suites: tuple[Suite, ...] | None = None
    rights: tuple[Right, ...] = ()
    targets: tuple[TargetGrant, ...] = ()

    def missing_for(
        self,
        role: Role,
        *,
        platform: str,
        connected_account: str | None,
        reply_to: str | None,
        lane: Lane,
        life_ms: int | None = None,
        kind: str | None = None,
        suite: str | None = None,
    ) -> str | None:
        """Return the missing line for what a header or an order shows. *life_ms*: from `issued_at` to `expires_at`."""
        checks: tuple[tuple[str, bool], ...] = (
            (f"roles.{role}", role in self.roles),
            ("platforms", _matches(self.platforms, platform)),
            ("connected_accounts", connected_account is None or _matches(self.connected_accounts, connected_account)),
            ("kinds", self.kinds is None or kind is None or kind in self.kinds),
            ("lanes", self.lanes is None or lane in self.lanes),
            ("suites", self.suites is None or suite is None or suite in self.suites),
            ("reply_routes", reply_to is None or self.may_read(reply_to)),
            ("longest_life_hours", life_ms is None or self._lives(life_ms)),
        )
        return next((line for line, granted in checks if not granted), None)

    @property
    def orders_for_others(self) -> bool:
        """True if what the signer orders are tokens of requests that it has opened: it is a worker and nothing else."""
        return "worker" in self.roles and "order" not in self.roles

    def missing_for_target(self, target: Target) -> str | None:
        """Return the missing line for spending a token on *target*."""
        of_its_kind = [grant for grant in self.targets if grant.to in (target.to, "*")]
        if not of_its_kind:
            return f"targets.{target.to}"
        missing = [_beyond(grant, target) for grant in of_its_kind]
        return None if None in missing else f"targets.{target.to}.{missing[0]}"

    def missing_for_operations(self, operations: Collection[str]) -> str | None:
        """Return the missing line for what a header says that the plan will call: one target must cover all of it."""
        meant = [to for to, may_call in OPERATIONS.items() if may_call.issuperset(operations)]
        granted = {grant.to for grant in self.targets}
        if not operations or "*" in granted or not granted.isdisjoint(meant):
            return None
        return f"targets.{meant[0]}" if meant else "targets"

    def may(self, right: Right) -> bool:
        """Return whether the signer has a right of its own."""
        return right in self.rights

    def may_read(self, route: str) -> bool:
        """Return whether outcomes may be told on this route."""
        return _matches(self.routes, route)

    @property
    def routes(self) -> tuple[Pattern, ...]:
        """The reply routes that it may name."""
        usual = (self.group, f"{self.group}-*", "import-*", "onboard-*", f"{PRIVATE}*")
        return usual if self.reply_routes is None else self.reply_routes

    def _lives(self, life_ms: int) -> bool:
        return self.longest_life_hours is None or life_ms <= self.longest_life_hours * 3_600_000


def everything(group: str = LEGACY, name: str = "known before there was a policy") -> Grant:
    """Return the grant that a signer had before there was a policy: everything."""
    return Grant(
        name=name,
        group=group,
        roles=("seal", "onboard", "order", "worker"),
        platforms=Everything,
        connected_accounts=Everything,
        reply_routes=Everything,
        rights=("clone_saved_card", "extra_fields"),
        targets=(TargetGrant(to="*"),),
    )


class _Content(Message):
    signers: dict[Name, Grant] = Field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    """The grants, by signer."""

    signers: Mapping[str, Grant]

    @classmethod
    def read(cls, path: Path) -> Policy:
        """Read the file.

        Raises `UnusableKey`, which names the file and the line and quotes no value.
        """
        content = read_key_file(path, "policy", "write one with `tokenferry keys generate --out DIR`")
        if stat.S_IMODE(path.stat().st_mode) & 0o022:
            raise UnusableKey(f"{path}: others may write to the policy; run `chmod go-w {path}`, and read it")
        try:
            return cls.parse(content.decode(), path)
        except UnicodeDecodeError:
            raise UnusableKey(f"{path}: is not TOML: not UTF-8") from None

    @classmethod
    def parse(cls, text: str, path: Path) -> Policy:
        """Return the policy that *text* spells. Raises as `read`; *path*: the file that the error names."""
        try:
            read = _Content.model_validate(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise UnusableKey(f"{path}: is not TOML: {error}") from None
        except ValidationError as error:
            first, *_ = error.errors(include_input=False, include_url=False)
            line = ".".join(str(part) for part in first["loc"])
            raise UnusableKey(f"{path}: {line}: {reason_of(first)}") from None
        for signer, grant in read.signers.items():
            if trouble := next(filter(None, map(_trouble_in, grant.targets)), None):
                raise UnusableKey(f"{path}: signers.{signer}.targets: {trouble}")
        return cls(read.signers)

    def grant_of(self, signer_id: str) -> Grant | None:
        """Return what *signer_id* may. None: nothing, the policy does not name it.

        An id of 16 digits is the beginning of one of 32, wherever either of them stands.
        """
        if (grant := self.signers.get(signer_id)) is not None:
            return grant
        alike = [
            grant for name, grant in self.signers.items() if signer_id.startswith(name) or name.startswith(signer_id)
        ]
        return alike[0] if len(alike) == 1 else None

    def group_of(self, signer_id: str, *, orders: bool = False) -> str:
        """Return the group of what *signer_id* has signed in version 1, which does not say it.

        *orders*: True for an order. Those of a worker are in `legacy`.
        """
        grant = self.grant_of(signer_id)
        if grant is None or (orders and grant.orders_for_others):
            return LEGACY
        return grant.group


class PolicyFile:
    """The policy as it stands in the file now. A change works within a second, in every process."""

    def __init__(self, path: Path, *, monotonic: Callable[[], float]) -> None:
        """Raises `UnusableKey` where the file cannot be read. Once read, the last good one stays in force."""
        self._path = path
        self._monotonic = monotonic
        self._seen = self._state()
        self._policy = Policy.read(path)
        self._next_look = monotonic() + RECHECK_SECONDS
        self.trouble: str | None = None
        """Why the file as it is now cannot be used; None: it is in force."""

    def current(self) -> Policy:
        """Return the policy in force."""
        if self._monotonic() >= self._next_look:
            self._next_look = self._monotonic() + RECHECK_SECONDS
            if (state := self._state()) != self._seen:
                self._seen = state
                self._read_again()
        return self._policy

    def _read_again(self) -> None:
        try:
            self._policy = Policy.read(self._path)
        except UnusableKey as error:
            self.trouble = str(error)
            log.error("policy: %s; the policy of before stays in force", error)
        else:
            self.trouble = None
            log.warning("policy: read %s again", self._path)

    def _state(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


def _trouble_in(grant: TargetGrant) -> str | None:
    if grant.to == "*":
        return None if grant.max_amount is None else 'max_amount needs the name of a target, not "*"'
    if (target := TARGETS.get(grant.to)) is None:
        return f"there is no target of that name; there are {', '.join(TARGETS)}"
    if grant.max_amount is not None and "amount" not in target.model_fields:
        return f"max_amount cannot be checked for {grant.to}, which names no amount"
    return None


def _beyond(grant: TargetGrant, target: Target) -> str | None:
    """Return which part of *grant* does not cover *target*."""
    amount, currency = getattr(target, "amount", None), getattr(target, "currency", None)
    if grant.max_amount is not None and amount is not None:
        most = grant.max_amount.get(str(currency).lower())
        if most is None or amount > most:
            return "max_amount"
    if not all(_matches(grant.destinations, to) for to in _destinations(target)):
        return "destinations"
    return None


def _destinations(target: Target) -> Iterable[str]:
    for name in DESTINATIONS:
        if (to := getattr(target, name, None)) is not None:
            yield to
    transfer: Any = getattr(target, "transfer_data", None)
    if transfer is not None:
        yield transfer.destination


def _matches(patterns: Iterable[str], name: str) -> bool:
    return any(name == each or (each.endswith("*") and name.startswith(each[:-1])) for each in patterns)
