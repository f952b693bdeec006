"""Where a token can be spent: one closed model for each way, distinguished by `to`.

A target knows the kinds of token it takes, the call that spends one, and the object on which such calls must not
overtake each other. Two of them also delete something or move money: an option must allow that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, get_args

from pydantic import Discriminator, Field, Tag, ValidationError

from tokenferry.contract.account_targets import (
    AccountCreate,
    AccountUpdate,
    ExternalAccount,
    PersonCreate,
    PersonUpdate,
)
from tokenferry.contract.connect import Address
from tokenferry.contract.fields import (
    Amount,
    Currency,
    Email,
    Flag,
    LongText,
    Metadata,
    ObjectId,
    OrUnset,
    Phone,
    Text,
    Url,
    Word,
)
from tokenferry.contract.form import Pair, encode
from tokenferry.contract.requests import Kind, Problem, field_names, problems_of
from tokenferry.contract.target import InvalidTarget, Target, TargetCall, id_of, path_of
from tokenferry.contract.target_options import (
    AutomaticPaymentMethods,
    BillingDetails,
    Locales,
    Owner,
    Shipping,
    TrackedShipping,
    TransferData,
)

__all__ = [
    "ENDPOINTS",
    "MOVES_MONEY",
    "OPERATIONS",
    "TARGETS",
    "AccountCreate",
    "AccountUpdate",
    "AttachTarget",
    "Charge",
    "CustomerCreate",
    "CustomerSource",
    "CustomerUpdate",
    "ExternalAccount",
    "InvalidTarget",
    "PaymentIntent",
    "PaymentIntentConfirm",
    "PaymentMethod",
    "PersonCreate",
    "PersonUpdate",
    "Source",
    "Target",
    "TargetCall",
    "Topup",
    "digest",
    "target_from",
]


class CustomerFields(Target):
    """What a customer can be given in the same call."""

    name: Text | None = None
    email: Email | None = None
    phone: Phone | None = None
    description: LongText | None = None
    address: OrUnset[Address] | None = None
    shipping: OrUnset[Shipping] | None = None
    individual_name: OrUnset[Text] | None = None
    business_name: OrUnset[Text] | None = None
    preferred_locales: Locales | None = None
    tax_exempt: OrUnset[Word] | None = None
    invoice_prefix: Word | None = None
    metadata: OrUnset[Metadata] | None = None

    kinds: ClassVar[frozenset[Kind]] = frozenset({"card", "bank_account"})
    budget: ClassVar[str] = "customers"


class CustomerCreate(CustomerFields):
    """A new customer with the token as its default source. If the token is refused, no customer is created."""

    to: Literal["customer_create"] = "customer_create"
    test_clock: ObjectId | None = None

    def path(self) -> str:
        return path_of("customers")


class CustomerUpdate(CustomerFields):
    """Replace a customer's default source.

    If the customer has a past due subscription, Stripe at once tries to collect its open invoice with the new source:
    money can move. So `may_collect_open_invoices=True` is required. `customer_source` adds a source and leaves the
    default as it is.
    """

    local: ClassVar[frozenset[str]] = frozenset({"to", "customer", "may_collect_open_invoices"})

    to: Literal["customer_update"] = "customer_update"
    customer: ObjectId
    may_collect_open_invoices: Flag = False

    def refusal(self, kind: Kind) -> str | None:
        if not self.may_collect_open_invoices:
            return "a new default source can make open invoices be collected; set may_collect_open_invoices=True"
        return None

    def path(self) -> str:
        return path_of("customers", self.customer)

    def serialised_on(self) -> str:
        return self.customer


class CustomerSource(Target):
    """Add a source to a customer. An existing default stays the default."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"card", "bank_account"})
    budget: ClassVar[str] = "customer_sources"
    local: ClassVar[frozenset[str]] = frozenset({"to", "customer"})

    to: Literal["customer_source"] = "customer_source"
    customer: ObjectId
    metadata: Metadata | None = None
    validate_source: Annotated[Flag | None, Field(serialization_alias="validate")] = None

    def path(self) -> str:
        return path_of("customers", self.customer, "sources")

    def serialised_on(self) -> str:
        return self.customer


class Charge(Target):
    """Charge the token directly. A bank account must be a verified one. Stripe has deprecated this call."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"card", "bank_account"})
    budget: ClassVar[str] = "charges"
    warning: ClassVar[str | None] = (
        "target charge: Stripe has deprecated charges and will remove them, ACH first; use payment_intent to take "
        "money now, or payment_method with a customer to keep the card"
    )

    to: Literal["charge"] = "charge"
    amount: Amount
    currency: Currency
    description: LongText | None = None
    capture: Flag | None = None
    receipt_email: Email | None = None
    statement_descriptor: Text | None = None
    statement_descriptor_suffix: Text | None = None
    application_fee_amount: Amount | None = None
    on_behalf_of: ObjectId | None = None
    transfer_data: TransferData | None = None
    transfer_group: Text | None = None
    shipping: TrackedShipping | None = None
    metadata: OrUnset[Metadata] | None = None

    def path(self) -> str:
        return path_of("charges")


class PaymentMethod(Target):
    """A payment method made from a card token; with `customer`, a second call attaches it.

    The token is spent by the first call. The second one can be repeated without it.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"card"})
    budget: ClassVar[str] = "payment_methods"
    local: ClassVar[frozenset[str]] = frozenset({"to", "customer"})

    to: Literal["payment_method"] = "payment_method"
    customer: ObjectId | None = None
    billing_details: BillingDetails | None = None
    allow_redisplay: Word | None = None
    metadata: Metadata | None = None

    def path(self) -> str:
        return path_of("payment_methods")

    def spent(self, token: str, kind: Kind) -> list[Pair]:
        return [("type", "card"), ("card[token]", token)]

    def follow_up(self, object_id: str) -> TargetCall | None:
        if self.customer is None:
            return None
        return TargetCall(
            path_of("payment_methods", id_of(object_id, "payment method"), "attach"),
            encode([("customer", self.customer)]),
        )

    def serialised_on(self) -> str | None:
        return self.customer


class PaymentIntentFields(Target):
    """What an intent can be given when it is created and when it is confirmed.

    A card token becomes the payment method. A cvc_update token accompanies a saved one, and only while confirming.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({"card", "cvc_update"})
    budget: ClassVar[str] = "payment_intents"

    payment_method: ObjectId | None = None
    capture_method: Word | None = None
    off_session: Flag | None = None
    error_on_requires_action: Flag | None = None
    setup_future_usage: Word | None = None
    return_url: Url | None = None
    receipt_email: Email | None = None
    shipping: TrackedShipping | None = None

    def refusal(self, kind: Kind) -> str | None:
        if kind == "card" and self.payment_method is not None:
            return "the card token becomes the payment method; leave out payment_method"
        return None

    def spent(self, token: str, kind: Kind) -> list[Pair]:
        if kind == "card":
            return [("payment_method_data[type]", "card"), ("payment_method_data[card][token]", token)]
        return [("payment_method_options[card][cvc_token]", token)]


class PaymentIntent(PaymentIntentFields):
    """A new payment intent, confirmed in the same call with `confirm=True`."""

    to: Literal["payment_intent"] = "payment_intent"
    amount: Amount
    currency: Currency
    customer: ObjectId | None = None
    confirm: Flag | None = None
    confirmation_method: Word | None = None
    automatic_payment_methods: AutomaticPaymentMethods | None = None
    description: LongText | None = None
    statement_descriptor: Text | None = None
    statement_descriptor_suffix: Text | None = None
    application_fee_amount: Amount | None = None
    on_behalf_of: ObjectId | None = None
    transfer_data: TransferData | None = None
    transfer_group: Text | None = None
    metadata: Metadata | None = None

    def refusal(self, kind: Kind) -> str | None:
        if kind == "cvc_update" and not (self.confirm and self.payment_method):
            return "a cvc_update token is used while confirming a saved card; set confirm=True and payment_method"
        return super().refusal(kind)

    def path(self) -> str:
        return path_of("payment_intents")


class PaymentIntentConfirm(PaymentIntentFields):
    """Confirm a payment intent that exists."""

    local: ClassVar[frozenset[str]] = frozenset({"to", "payment_intent"})

    to: Literal["payment_intent_confirm"] = "payment_intent_confirm"
    payment_intent: ObjectId
    use_stripe_sdk: Flag | None = None

    def path(self) -> str:
        return path_of("payment_intents", self.payment_intent, "confirm")

    def serialised_on(self) -> str:
        return self.payment_intent


class Topup(Target):
    """Pull money from a bank account into the platform's balance."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"bank_account"})
    budget: ClassVar[str] = "topups"

    to: Literal["topup"] = "topup"
    amount: Amount
    currency: Currency
    description: LongText | None = None
    statement_descriptor: Text | None = None
    transfer_group: Text | None = None
    metadata: OrUnset[Metadata] | None = None

    def path(self) -> str:
        return path_of("topups")


class Source(Target):
    """A source (the predecessor of payment methods) made from a token. `type` as the endpoint names it."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({"card", "bank_account"})
    budget: ClassVar[str] = "sources"
    parameter: ClassVar[str] = "token"

    to: Literal["source"] = "source"
    type: Word
    usage: Word | None = None
    currency: Currency | None = None
    owner: Owner | None = None
    statement_descriptor: Text | None = None
    metadata: Metadata | None = None

    def refusal(self, kind: Kind) -> str | None:
        if (kind == "card") != (self.type == "card"):
            return 'a card token makes a source of type="card", a bank_account token one of a bank type'
        return None

    def path(self) -> str:
        return path_of("sources")


def _to(value: Any) -> str | None:
    to = value.get("to") if isinstance(value, Mapping) else getattr(value, "to", None)
    return to if isinstance(to, str) else None


AttachTarget: TypeAlias = Annotated[
    Annotated[CustomerCreate, Tag("customer_create")]
    | Annotated[CustomerUpdate, Tag("customer_update")]
    | Annotated[CustomerSource, Tag("customer_source")]
    | Annotated[Charge, Tag("charge")]
    | Annotated[PaymentMethod, Tag("payment_method")]
    | Annotated[PaymentIntent, Tag("payment_intent")]
    | Annotated[PaymentIntentConfirm, Tag("payment_intent_confirm")]
    | Annotated[ExternalAccount, Tag("external_account")]
    | Annotated[AccountCreate, Tag("account_create")]
    | Annotated[AccountUpdate, Tag("account_update")]
    | Annotated[PersonCreate, Tag("person_create")]
    | Annotated[PersonUpdate, Tag("person_update")]
    | Annotated[Topup, Tag("topup")]
    | Annotated[Source, Tag("source")],
    # pydantic's own error would quote whatever stands in `to`.
    Discriminator(_to, custom_error_type="unknown_target", custom_error_message="`to` is not one of the known targets"),
]

TARGETS: Mapping[str, type[Target]] = MappingProxyType(
    {tag.tag: model for model, tag in map(get_args, get_args(get_args(AttachTarget)[0]))}
)


ENDPOINTS: frozenset[str] = frozenset({"tokens", *(model.budget for model in TARGETS.values())})
"""Names of the resources that are called, as rate budgets name them."""


MOVES_MONEY: frozenset[str] = frozenset({"charge", "payment_intent", "payment_intent_confirm", "topup"})
"""Targets, by `to`, whose call moves money. Done a second time, it cannot be called back."""


OPERATIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "customer_create": frozenset({"POST /v1/customers"}),
        "customer_update": frozenset({"POST /v1/customers/{customer}"}),
        "customer_source": frozenset({"POST /v1/customers/{customer}/sources"}),
        "charge": frozenset({"POST /v1/charges"}),
        "payment_method": frozenset({"POST /v1/payment_methods", "POST /v1/payment_methods/{made_before}/attach"}),
        "payment_intent": frozenset({"POST /v1/payment_intents"}),
        "payment_intent_confirm": frozenset({"POST /v1/payment_intents/{payment_intent}/confirm"}),
        "external_account": frozenset({"POST /v1/accounts/{account}/external_accounts"}),
        "account_create": frozenset({"POST /v1/accounts"}),
        "account_update": frozenset({"POST /v1/accounts/{account}"}),
        "person_create": frozenset({"POST /v1/accounts/{account}/persons"}),
        "person_update": frozenset({"POST /v1/accounts/{account}/persons/{person}"}),
        "topup": frozenset({"POST /v1/topups"}),
        "source": frozenset({"POST /v1/sources"}),
    }
)
"""What a plan for a target may call, by `to`: all that `Target.operations` can say. Headers carry these words, so they
do not change."""


def target_from(data: Mapping[str, Any]) -> Target:
    """Read a target. Raises `InvalidTarget`, which names every field to correct."""
    to = data.get("to") if isinstance(data, Mapping) else None
    model = TARGETS.get(to) if isinstance(to, str) else None
    if model is None:
        del data  # this frame travels with the exception
        problem = Problem("target.to", f"must be one of {', '.join(TARGETS)}")
        raise InvalidTarget(str(problem), [problem])
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        problems = problems_of(error, under=str(to), names=field_names(model))
    del data  # this frame travels with the exception
    raise InvalidTarget(", ".join(map(str, problems)), problems)


def digest(target: Target) -> str:
    """Return SHA-256, in hex, of the target as sorted JSON without spaces and without fields that are not given."""
    given = target.model_dump(mode="json", exclude_none=True)
    spelled = json.dumps(given, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(spelled.encode()).hexdigest()
