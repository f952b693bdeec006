"""The hashes of plain parameters that go next to a token when it is spent.

They have no field for a card number, an account number, an id number or a date of birth: those travel in tokens. They
print as their names, so that no person's name gets into a log.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictInt

from tokenferry.contract.connect import Address
from tokenferry.contract.fields import (
    Amount,
    Currency,
    Email,
    Flag,
    IpAddress,
    Name,
    ObjectId,
    OrUnset,
    Phone,
    Text,
    Timestamp,
    Url,
    UserAgent,
    Word,
    Words,
)
from tokenferry.contract.message import Sensitive


class Shipping(Sensitive):
    """Where goods go. The endpoints want name and address."""

    name: Name
    address: Address
    phone: Phone | None = None


class TrackedShipping(Shipping):
    """Where goods went, and with whom."""

    carrier: Text | None = None
    tracking_number: Text | None = None


class Owner(Sensitive):
    """Who owns a source."""

    name: Name | None = None
    email: Email | None = None
    phone: Phone | None = None
    address: Address | None = None


class BillingDetails(Sensitive):
    """What belongs to a payment method besides the card."""

    name: Name | None = None
    email: Email | None = None
    phone: Phone | None = None
    address: Address | None = None


class TransferData(Sensitive):
    """Which connected account gets the money, and how much of it."""

    destination: ObjectId
    amount: Amount | None = None


class AutomaticPaymentMethods(Sensitive):
    """`allow_redirects="never"` lets an intent be confirmed without a return_url."""

    enabled: Flag
    allow_redirects: Word | None = None


class UserTosAcceptance(Sensitive):
    """When (seconds since 1970) and from which address *the user* accepted, not the worker."""

    date: Timestamp | None = None
    ip: IpAddress | None = None
    service_agreement: Word | None = None
    user_agent: UserAgent | None = None


class Revenue(Sensitive):
    """Money a business makes in a month."""

    amount: Annotated[StrictInt, Field(ge=0)]
    currency: Currency


class BusinessProfile(Sensitive):
    """What the account's customers see, and what it sells."""

    name: Name | None = None
    mcc: Annotated[str, Field(strict=True, pattern="^[0-9]{4}$")] | None = None
    product_description: Annotated[str, Field(strict=True, min_length=1, max_length=40_000)] | None = None
    url: Url | None = None
    support_address: Address | None = None
    support_email: Email | None = None
    support_phone: Phone | None = None
    support_url: OrUnset[Url] | None = None
    estimated_worker_count: Annotated[StrictInt, Field(ge=0)] | None = None
    monthly_estimated_revenue: Revenue | None = None


class Capability(Sensitive):
    """Whether a capability is asked for."""

    requested: Flag


class Fees(Sensitive):
    """Who pays the fees: account, application."""

    payer: Word


class Losses(Sensitive):
    """Who bears payment losses: application, stripe."""

    payments: Word


class Dashboard(Sensitive):
    """Which dashboard the account gets: express, full, none."""

    type: Word


class Controller(Sensitive):
    """Who does what. External accounts can be added only if the application collects the requirements."""

    fees: Fees | None = None
    losses: Losses | None = None
    requirement_collection: Word | None = None
    stripe_dashboard: Dashboard | None = None


class PayoutSchedule(Sensitive):
    """When money is paid out. `delay_days` is a number of days or "minimum"."""

    interval: Word | None = None
    delay_days: Annotated[StrictInt, Field(ge=0, le=365)] | Literal["minimum"] | None = None
    monthly_anchor: Annotated[StrictInt, Field(ge=1, le=31)] | None = None
    weekly_anchor: Word | None = None


class PayoutSettings(Sensitive):
    """How money is paid out."""

    debit_negative_balances: Flag | None = None
    schedule: PayoutSchedule | None = None
    statement_descriptor: Text | None = None


class PaymentSettings(Sensitive):
    """What card holders read on their statement."""

    statement_descriptor: Text | None = None


class AccountSettings(Sensitive):
    """The settings useful at the moment an account or its bank account is added."""

    payments: PaymentSettings | None = None
    payouts: PayoutSettings | None = None


class Relationship(Sensitive):
    """What the person is to the account's legal entity."""

    representative: Flag | None = None
    owner: Flag | None = None
    director: Flag | None = None
    executive: Flag | None = None
    authorizer: Flag | None = None
    legal_guardian: Flag | None = None
    title: Text | None = None


Locales = Words
Capabilities = Annotated[
    dict[Annotated[str, Field(strict=True, pattern="^[a-z0-9_]{1,100}$")], Capability], Field(max_length=100)
]
"""As at Stripe: `{"card_payments": {"requested": True}}`."""
