"""Decides who may what. Every worker asks here, after the signature is verified; nothing else reads the policy.

The clear header is checked before a permit is asked for. What is sealed is checked after opening, before any call.
Every check raises `NotGranted`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.envelope import LEGACY
from tokenferry.contract.envelope2 import Header2, RequestHeader
from tokenferry.contract.onboarding import DocumentHeader, Onboarding
from tokenferry.contract.plaintext import Plaintext
from tokenferry.contract.requests import Kind
from tokenferry_worker.errors import NotGranted
from tokenferry_worker.keys.form_rights import rights_needed
from tokenferry_worker.keys.policy import Grant, Policy, Role, everything

EVERYTHING = everything()


@dataclass(frozen=True)
class Rights:
    """The rights of every signer, by the policy as it is now."""

    policy: Callable[[], Awaitable[Policy | None]]
    """Returns the policy in force; None: there is none, and every signer may everything."""

    async def group_of(self, header: RequestHeader | DocumentHeader) -> str:
        """Return whose id it is: what version 2 claims, which is still to be checked; by the policy for version 1."""
        if isinstance(header, Header2):
            return header.group
        policy = await self.policy()
        return LEGACY if policy is None else policy.group_of(header.producer_id)

    async def in_its_group(self, order: AttachRequest) -> AttachRequest:
        """Return the order with the group of its id, as `group_of` does."""
        policy = await self.policy()
        if order.version == 2 or policy is None:
            return order
        return order.model_copy(update={"group": policy.group_of(order.signer_id, orders=True)})

    async def check_request(self, header: RequestHeader) -> None:
        """Check what the header of a request shows."""
        grant = await self._grant(header.producer_id)
        missing = _missing_for(grant, "seal", header, kind=header.kind)
        _check(grant, header.reply_to, missing or grant.missing_for_operations(header.operations or ()))

    async def check_content(self, header: RequestHeader, plaintext: Plaintext) -> None:
        """Check what is inside a request: on what the token is to be spent, and which fields are sent."""
        grant = await self._grant(header.producer_id)
        missing = None if plaintext.attach is None else grant.missing_for_target(plaintext.attach)
        _check(grant, header.reply_to, missing)
        _check_form(grant, header.reply_to, cast(Kind, header.kind), plaintext.form)

    async def check_onboarding(self, header: DocumentHeader) -> None:
        """Check what the header of a sealed document shows."""
        grant = await self._grant(header.producer_id)
        _check(grant, header.reply_to, _missing_for(grant, "onboard", header))

    async def check_document(self, header: DocumentHeader, document: Onboarding) -> None:
        """Check what is inside a sealed document. It has the fields of the contract only."""
        grant = await self._grant(header.producer_id)
        for each in document.external_accounts:
            _check_form(grant, header.reply_to, each.request.kind, each.request.form())

    async def check_order(self, order: AttachRequest) -> None:
        """Check an order to spend a token.

        The plan of an order that a worker has signed was checked when its request was opened.
        """
        grant = await self._grant(order.signer_id)
        is_workers_own = grant.orders_for_others
        missing = grant.missing_for(
            "worker" if is_workers_own else "order",
            platform=order.platform,
            connected_account=order.connected_account,
            reply_to=order.reply_to,
            lane=order.lane,
            kind=order.kind,
        )
        for_every_group = "worker" in grant.roles and grant is not EVERYTHING
        if order.group != grant.group and not for_every_group:
            missing = "group"
        if missing is None and not is_workers_own:
            missing = grant.missing_for_target(order.target)
        _check(grant, order.reply_to, missing)

    async def _grant(self, signer_id: str) -> Grant:
        policy = await self.policy()
        grant = EVERYTHING if policy is None else policy.grant_of(signer_id)
        if grant is None:
            raise NotGranted(f"signers.{signer_id}", may_tell=False)
        return grant


def _missing_for(
    grant: Grant, role: Role, header: RequestHeader | DocumentHeader, *, kind: str | None = None
) -> str | None:
    if isinstance(header, Header2) and header.group != grant.group:
        return "group"
    return grant.missing_for(
        role,
        platform=header.platform,
        connected_account=header.connected_account,
        reply_to=header.reply_to,
        lane=header.lane,
        life_ms=header.expires_at - header.issued_at,
        kind=kind,
        suite=header.suite,
    )


def _check_form(grant: Grant, reply_to: str | None, kind: Kind, form: str) -> None:
    for right in sorted(rights_needed(kind, form) - set(grant.rights)):
        _check(grant, reply_to, f"rights.{right}")


def _check(grant: Grant, reply_to: str | None, missing: str | None) -> None:
    if missing is not None:
        raise NotGranted(missing, may_tell=reply_to is not None and grant.may_read(reply_to))
