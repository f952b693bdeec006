"""Tokenferry: encrypted card and bank data in, Stripe tokens out.

This package can encrypt requests but not decrypt them. Everything a program needs is importable from here:

>>> from tokenferry import CardRequest, CustomerCreate, Producer

A name is loaded when it is first used, so that the command line starts fast. `__init__.pyi` says the same to type
checkers.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import Any, Final

_NAMES_OF: Final = MappingProxyType(
    {
        "broker.embedded": "EmbeddedServerError",
        "broker.errors": "BrokerFull BrokerUnavailable PublishError PublishTimeout",
        "configuration": "Configuration InvalidConfiguration load",
        "consuming": "AsyncResults Results",
        "contract.connect": (
            "Address CalendarDate Company Declaration Documents Individual JapaneseAddress PersonRelationship"
            " PersonVerification TosAcceptance"
        ),
        "contract.names": "Lane",
        "contract.notices": "Notice",
        "contract.onboarding": "Onboarding onboarding_from",
        "contract.problems": "InvalidInput InvalidRequest InvalidTarget Problem",
        "contract.requests": (
            "AccountRequest BankAccountRequest CardRequest CvcUpdateRequest Kind PersonRequest PiiRequest TokenRequest"
            " request_from"
        ),
        "contract.results": (
            "AnyResult AttachResult Display Failure OnboardingProgress OnboardingResult StepResult TokenResult"
        ),
        "contract.target_options": (
            "AutomaticPaymentMethods BillingDetails BusinessProfile Capability Controller Dashboard Fees Losses Owner"
            " Shipping TrackedShipping TransferData"
        ),
        "contract.targets": (
            "AccountCreate AccountUpdate AttachTarget Charge CustomerCreate CustomerSource CustomerUpdate"
            " ExternalAccount PaymentIntent PaymentIntentConfirm PaymentMethod PersonCreate PersonUpdate Source Topup"
            " target_from"
        ),
        "errors": "ProducerError StillRunning UnknownRequest",
        "outbox": "Outbox OutboxFailed OutboxFull UnusableOutbox",
        "producer": "AsyncProducer Order Producer",
        "sealing": "UnusableKey",
    }
)
"""The public names, by the module that has them."""
_HOME_OF: Final = MappingProxyType({name: home for home, names in _NAMES_OF.items() for name in names.split()})

__all__ = sorted(_HOME_OF)  # type checkers read __init__.pyi


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
