"""Rate limits, concurrency and object locks."""

import re
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from tokenferry_emulator import EmulatorState, Settings, routes
from tokenferry_emulator.authentication import KeyScope
from tokenferry_emulator.limits import RateLimiter
from tokenferry_emulator.settings import Rates
from tokenferry_emulator.testing import CARD, Provider

SCOPE = KeyScope("alpha", live=False)


@pytest.mark.parametrize(("rate", "burst"), [(25.0, 5.0), (3.0, 1.0), (100.0, 20.0)])
def test_in_no_second_do_more_calls_pass_than_rate_and_burst(rate: float, burst: float) -> None:
    now = [0.0]
    limiter = RateLimiter(Rates(endpoint_rate=rate, burst=burst), lambda: now[0])
    passed = []
    for _ in range(5000):
        if limiter.admit(SCOPE, "POST /v1/tokens") is None:
            passed.append(now[0])
        now[0] += 0.001
    peak = max(sum(start <= at < start + 1.0 for at in passed) for start in passed)
    assert peak <= rate + burst
    assert len(passed) >= 5 * rate


def test_a_paced_caller_is_never_refused() -> None:
    now = [0.0]
    limiter = RateLimiter(Rates(endpoint_rate=25.0, burst=1.0), lambda: now[0])
    for at in range(500):
        now[0] = at / 25.0
        assert limiter.admit(SCOPE, "POST /v1/tokens") is None


@pytest.mark.parametrize(
    ("rates", "reason"),
    [
        (Rates(global_rate=1, burst=1), "global-rate"),
        (Rates(endpoint_rate=1, burst=1), "endpoint-rate"),
        (Rates(by_endpoint={"POST /v1/tokens": 1}, burst=1), "endpoint-rate"),
    ],
)
def test_a_limited_call_is_429_with_its_reason_and_does_nothing(
    provider_with: Callable[[Settings], Provider], rates: Rates, reason: str
) -> None:
    provider = provider_with(Settings(rates=rates))
    provider.token()
    answer = provider.post("/v1/tokens", CARD)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (429, "invalid_request_error", "rate_limit")
    assert answer.headers["stripe-rate-limited-reason"] == reason
    assert error["message"].startswith("Testmode request rate limit exceeded")
    assert "retry-after" not in answer.headers
    ledger = provider.ledger()
    assert (ledger["tokens_created"], ledger["rate_limited"]) == (1, 1)
    assert ledger["peak_calls_per_second"]["tokens"] == 2
    assert ledger["peak_admitted_per_second"]["tokens"] == 1


def test_endpoints_and_accounts_have_their_own_buckets(provider_with: Callable[[Settings], Provider]) -> None:
    provider = provider_with(Settings(rates=Rates(endpoint_rate=0.01, burst=1)))
    token = provider.token()
    assert provider.get(f"/v1/tokens/{token}").status_code == 200
    assert provider.made("/v1/customers", {"source": token})
    assert provider.token(authorization="Bearer sk_test_beta")
    assert provider.post("/v1/tokens", CARD).status_code == 429


EXAMPLES = re.findall(r"^\| (`.*`) \| (\d) \|$", Path(__file__).with_name("rate-limits.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("calls", "endpoints"), EXAMPLES)
def test_an_endpoint_is_one_operation_whatever_ids_are_in_its_path(calls: str, endpoints: str) -> None:
    limiter = RateLimiter(Rates(endpoint_rate=1.0, burst=1.0), lambda: 0.0)
    admitted = []
    for call in re.findall("`(.*?)`", calls):
        route, _ = routes.find(*call.split(" "))
        assert route is not None, call
        admitted.append(limiter.admit(SCOPE, route.name))
    assert admitted.count(None) == int(endpoints)


def test_the_examples_of_the_documentation_were_read() -> None:
    assert len(EXAMPLES) == 9


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        ("POST /v1/customers/:id", True),
        ("GET /v1/customers/:id", True),
        ("POST /v1/customers/:id/sources", False),
        ("POST /v1/tokens", False),
    ],
)
def test_it_can_count_all_operations_of_a_resource_as_one_endpoint(other: str, shared: bool) -> None:
    limiter = RateLimiter(Rates(endpoint_rate=1.0, burst=1.0, count_by="resource"), lambda: 0.0)
    assert limiter.admit(SCOPE, "POST /v1/customers") is None
    assert limiter.admit(SCOPE, other) == ("endpoint-rate" if shared else None)


def test_creating_accounts_may_be_quicker_than_any_other_operation() -> None:
    """30 a second in live mode, where every other operation has 25."""
    limiter = RateLimiter(Rates(endpoint_rate=1.0, account_creation_rate=2.0, burst=2.0), lambda: 0.0)
    admitted = [limiter.admit(SCOPE, "POST /v1/accounts", creates_account=True) for _ in range(3)]
    assert admitted == [None, None, "endpoint-rate"]


def test_connected_accounts_have_their_own_limit_and_share_that_of_the_platform() -> None:
    now = [0.0]
    limiter = RateLimiter(Rates(endpoint_rate=1.0, burst=3.0), lambda: now[0])
    connected = SCOPE._replace(connected="acct_1")
    assert [limiter.admit(connected, "e") for _ in range(4)] == [None, None, None, "endpoint-rate"]
    assert limiter.admit(SCOPE, "e") == "endpoint-rate"


def test_account_creation_has_a_limit_of_its_own(provider_with: Callable[[Settings], Provider]) -> None:
    provider = provider_with(Settings(rates=Rates(account_creation_rate=0.01, burst=1)))
    account = provider.custom_account()
    assert provider.post("/v1/accounts", {"type": "custom"}).status_code == 429
    assert provider.made(f"/v1/accounts/{account}", {"email": "a@example.com"})


def test_too_many_calls_at_the_same_time_are_429_for_concurrency(provider_with: Callable[[Settings], Provider]) -> None:
    provider = provider_with(Settings(rates=Rates(concurrency=3), latency_ms=20))
    answers = provider.at_once([("/v1/tokens", CARD, {})] * 5)
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 429, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["stripe-rate-limited-reason"] == "global-concurrency"


def test_limits_change_while_running_and_the_ledger_counts_to_the_new_ones(provider: Provider) -> None:
    provider.world.limiter.set(Rates(endpoint_rate=0.01, burst=2))
    statuses = [provider.post("/v1/tokens", CARD).status_code for _ in range(3)]
    provider.world.limiter.set(Rates())
    statuses += [provider.post("/v1/tokens", CARD).status_code for _ in range(3)]
    assert statuses == [200, 200, 429, 200, 200, 200]


def test_a_write_that_waits_too_long_for_its_object_is_429_lock_timeout(
    provider_with: Callable[[Settings], Provider],
) -> None:
    provider = provider_with(Settings(latency_ms=60, lock_timeout_ms=5))
    customer = provider.made("/v1/customers")["id"]
    numbers = count()
    calls = [(f"/v1/customers/{customer}", {"name": "J"}, {"idempotency_key": f"{next(numbers)}"}) for _ in range(2)]
    answers = provider.at_once(calls)
    assert sorted(answer.status_code for answer in answers) == [200, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["code"] == "lock_timeout"
    assert refused.headers["stripe-should-retry"] == "true"
    assert "stripe-rate-limited-reason" not in refused.headers
    assert provider.ledger()["per_object_concurrent_writes_peak"] == 2
    key = "0" if answers[0].status_code == 429 else "1"
    again = provider.post(*calls[int(key)][:2], idempotency_key=key)
    assert (again.status_code, again.headers.get("idempotent-replayed")) == (200, None)


def test_writes_on_one_object_wait_for_each_other(provider_with: Callable[[Settings], Provider]) -> None:
    provider = provider_with(Settings(latency_ms=5, lock_timeout_ms=2000))
    path = f"/v1/accounts/{provider.custom_account()}/persons"
    answers = provider.at_once([(path, {"first_name": str(at)}, {}) for at in range(5)])
    assert {answer.status_code for answer in answers} == {200}
    assert len(provider.get(path).json()["data"]) == 5


def test_latency_is_slept_before_the_effect_with_the_clock_it_was_given() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    provider = Provider(EmulatorState(Settings(latency_ms=250, connect_latency_ms=1000), sleep=sleep))
    provider.token()
    provider.custom_account()
    assert slept == [0.25, 1.25]


def test_sampled_latency_is_like_the_measured_one_and_the_same_for_the_same_seed() -> None:
    def sampled(seed: int) -> list[float]:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        provider = Provider(EmulatorState(Settings(sampled_latency=True, seed=seed), sleep=sleep))
        for _ in range(100):
            provider.token()
        return sorted(slept)

    assert sampled(1) == sampled(1) != sampled(2)
    assert 0.45 < sampled(1)[50] < 0.55
