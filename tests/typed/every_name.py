"""Uses every public name as a user would. Type checkers read it (`make check`); a test sees that no name is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

from tokenferry import (
    AccountCreate,
    AccountRequest,
    AccountUpdate,
    Address,
    AnyResult,
    AsyncProducer,
    AsyncResults,
    AttachResult,
    AttachTarget,
    AutomaticPaymentMethods,
    BankAccountRequest,
    BillingDetails,
    BrokerFull,
    BrokerUnavailable,
    BusinessProfile,
    CalendarDate,
    Capability,
    CardRequest,
    Charge,
    Company,
    Configuration,
    Controller,
    CustomerCreate,
    CustomerSource,
    CustomerUpdate,
    CvcUpdateRequest,
    Dashboard,
    Declaration,
    Display,
    Documents,
    EmbeddedServerError,
    ExternalAccount,
    Failure,
    Fees,
    Individual,
    InvalidConfiguration,
    InvalidInput,
    InvalidRequest,
    InvalidTarget,
    JapaneseAddress,
    Kind,
    Lane,
    Losses,
    Notice,
    Onboarding,
    OnboardingProgress,
    OnboardingResult,
    Order,
    Outbox,
    OutboxFailed,
    OutboxFull,
    Owner,
    PaymentIntent,
    PaymentIntentConfirm,
    PaymentMethod,
    PersonCreate,
    PersonRelationship,
    PersonRequest,
    PersonUpdate,
    PersonVerification,
    PiiRequest,
    Problem,
    Producer,
    ProducerError,
    PublishError,
    PublishTimeout,
    Results,
    Shipping,
    Source,
    StepResult,
    StillRunning,
    TokenRequest,
    TokenResult,
    Topup,
    TosAcceptance,
    TrackedShipping,
    TransferData,
    UnknownRequest,
    UnusableKey,
    UnusableOutbox,
    load,
    onboarding_from,
    request_from,
    target_from,
)
from tokenferry.testing import FakeAsyncProducer, FakeProducer, local_service

LANE: Lane = "realtime"
KIND: Kind = "card"


def requests() -> Iterator[TokenRequest]:
    yield CardRequest(number="4242424242424242", exp_month=12, exp_year="2040")
    yield BankAccountRequest(country="US", currency="usd", account_number="000123456789", routing_number="110000000")
    yield PiiRequest(id_number="000000000")
    yield AccountRequest(business_type="company", company=Company(name="Example"), tos_shown_and_accepted=True)
    yield AccountRequest(individual=Individual(first_name="Ada", address=Address(city="Paris", country="FR")))
    yield PersonRequest(
        first_name="Ada",
        dob=CalendarDate(day=1, month=1, year=1901),
        address_kana=JapaneseAddress(town="x"),
        relationship=PersonRelationship(director=True),
        verification=PersonVerification(),
        documents=Documents(),
    )
    yield CvcUpdateRequest(cvc="123")
    yield request_from(KIND, {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040})


def targets() -> Iterator[AttachTarget]:
    yield CustomerCreate(email="ada@example.com", shipping=Shipping(name="Ada", address=Address(city="Paris")))
    yield CustomerUpdate(customer="cus_1", may_collect_open_invoices=True)
    yield CustomerSource(customer="cus_1")
    yield Charge(amount=100, currency="usd", shipping=TrackedShipping(name="Ada", address=Address(city="Paris")))
    yield PaymentMethod(customer="cus_1", billing_details=BillingDetails(name="Ada"))
    yield PaymentIntent(
        amount=100,
        currency="usd",
        transfer_data=TransferData(destination="acct_1"),
        automatic_payment_methods=AutomaticPaymentMethods(enabled=True),
    )
    yield PaymentIntentConfirm(payment_intent="pi_1")
    yield ExternalAccount(account="acct_1")
    yield AccountCreate(
        country="US",
        business_profile=BusinessProfile(),
        capabilities={"transfers": Capability(requested=True)},
        controller=Controller(
            fees=Fees(payer="account"), losses=Losses(payments="stripe"), stripe_dashboard=Dashboard(type="full")
        ),
    )
    yield AccountUpdate(account="acct_1")
    yield PersonCreate(account="acct_1")
    yield PersonUpdate(account="acct_1", person="person_1")
    yield Topup(amount=100, currency="usd")
    yield Source(type="card", owner=Owner(name="Ada"))


def ask(producer: Producer, card: CardRequest, target: AttachTarget) -> str | None:
    made = assert_type(producer.request(card, timeout=5.0, lane=LANE), TokenResult)
    used = assert_type(producer.request(card, attach=CustomerCreate()), AttachResult)
    assert_type(producer.outcome(made.request_id), TokenResult | AttachResult)
    failure: Failure | None = used.failure
    display: Display | None = made.display
    assert_type(producer.send(card, reply_to="shop", attach=target, platform="main", keep_seconds=60.0), str)
    assert_type(producer.attach(made, target), str)
    for request_id in producer.send_many([Order(card, attach=target)]):
        assert_type(request_id, str)
    return None if failure is None else f"{failure.code} {display and display.last4}"


def onboard(producer: Producer) -> None:
    document: Onboarding = onboarding_from({"reference": "seller-7", "account": {"country": "US"}})
    producer.onboard(document, reply_to="sellers", progress=True)


def read(path: str | Path) -> None:
    def step(progress: OnboardingProgress) -> None:
        done: StepResult = progress.step
        print(done.status)

    def notice(why: Notice) -> None:
        print(why.reason)

    with Results("sellers", path, on_progress=step, on_notice=notice) as results:
        result: AnyResult | None = results.take(timeout=1.0)
        if isinstance(result, OnboardingResult):
            print(result.account)


async def ask_async(card: CardRequest) -> None:
    async with AsyncProducer("tokenferry.toml") as producer:
        assert_type(await producer.request(card), TokenResult)
        assert_type(await producer.request(card, attach=CustomerCreate()), AttachResult)
        await producer.send(card, reply_to="shop")
    async with AsyncResults("shop") as results:
        assert_type(await results.take(timeout=1.0), AnyResult | None)


def caught(producer: Producer, card: CardRequest) -> tuple[Problem, ...]:
    try:
        producer.request(card)
    except (InvalidRequest, InvalidTarget) as error:
        return error.problems
    except InvalidInput as error:
        return error.problems
    except (StillRunning, UnknownRequest) as error:
        print(error.request_id)
    except (BrokerFull, BrokerUnavailable, PublishTimeout, OutboxFull, OutboxFailed) as error:
        print(error.request_id, error.maybe_sent)
    except PublishError as error:
        print(error.others)
    except (EmbeddedServerError, InvalidConfiguration, UnusableKey, UnusableOutbox) as error:
        print(error.exit_code)
    except ProducerError as error:
        print(error)
    return ()


def outbox(folder: Path) -> Outbox:
    configuration: Configuration = load(str(folder / "tokenferry.toml"))
    return Outbox(configuration.path(Path("outbox.db")))


def terms() -> tuple[TosAcceptance, Declaration]:
    target_from({"to": "customer_create"})
    return TosAcceptance(date=1, ip="127.0.0.1"), Declaration(date=1, ip="127.0.0.1")


def in_tests(card: CardRequest) -> None:
    assert_type(FakeProducer().request(card), TokenResult)
    a_producer: Producer = FakeProducer()
    an_async_one: AsyncProducer = FakeAsyncProducer()
    print(a_producer, an_async_one)
    with local_service() as service, service.producer() as real:
        real.request(card)
