"""Tokenferry: encrypted card and bank data in, Stripe tokens out.

This package can encrypt requests but not decrypt them.

>>> from tokenferry import CardRequest, Producer, Results
"""

from tokenferry.broker.publishing import BrokerFull, BrokerUnavailable, PublishError, PublishTimeout
from tokenferry.configuration import Configuration, InvalidConfiguration, load
from tokenferry.consuming import AsyncResults, Results
from tokenferry.contract.notices import Notice
from tokenferry.contract.onboarding import Onboarding, onboarding_from
from tokenferry.contract.requests import (
    AccountRequest,
    BankAccountRequest,
    CardRequest,
    CvcUpdateRequest,
    InvalidRequest,
    PersonRequest,
    PiiRequest,
    Problem,
    TokenRequest,
)
from tokenferry.contract.results import AttachResult, Failure, OnboardingResult, TokenResult
from tokenferry.contract.targets import AttachTarget, InvalidTarget
from tokenferry.outbox import Outbox, OutboxFailed, OutboxFull, UnusableOutbox
from tokenferry.producer import AsyncProducer, Order, Producer
from tokenferry.sealing import UnusableKey

__all__ = [
    "AccountRequest",
    "AsyncProducer",
    "AsyncResults",
    "AttachResult",
    "AttachTarget",
    "BankAccountRequest",
    "BrokerFull",
    "BrokerUnavailable",
    "CardRequest",
    "Configuration",
    "CvcUpdateRequest",
    "Failure",
    "InvalidConfiguration",
    "InvalidRequest",
    "InvalidTarget",
    "Notice",
    "Onboarding",
    "OnboardingResult",
    "Order",
    "Outbox",
    "OutboxFailed",
    "OutboxFull",
    "PersonRequest",
    "PiiRequest",
    "Problem",
    "Producer",
    "PublishError",
    "PublishTimeout",
    "Results",
    "TokenRequest",
    "TokenResult",
    "UnusableKey",
    "UnusableOutbox",
    "load",
    "onboarding_from",
]
