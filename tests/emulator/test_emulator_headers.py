"""Response headers, as recorded."""

from tokenferry_emulator.testing import CARD, Provider


def test_every_answer_has_the_usual_headers_and_a_request_id_of_its_own(provider: Provider) -> None:
    first, second = (provider.post("/v1/tokens", CARD) for _ in range(2))
    usual = {"server": "nginx", "content-type": "application/json", "cache-control": "no-cache, no-store"}
    assert usual.items() <= first.headers.items()
    assert first.headers["strict-transport-security"].startswith("max-age=")
    assert first.headers["content-length"] == str(len(first.content))
    assert first.headers["request-id"].startswith("req_")
    assert first.headers["request-id"] != second.headers["request-id"]
    assert first.headers["original-request"] == first.headers["request-id"]


def test_the_version_asked_for_is_the_version_answered(provider: Provider) -> None:
    answer = provider.post("/v1/customers", {"source": "tok_visa"}, stripe_version="2015-04-07")
    assert answer.headers["stripe-version"] == "2015-04-07"
    assert answer.json()["sources"]["total_count"] == 1
    assert provider.post("/v1/tokens", CARD).headers["stripe-version"] == "2026-10-28.endive"


def test_should_retry_is_false_on_what_is_final_and_absent_otherwise(provider: Provider) -> None:
    token = provider.token()
    final = [
        provider.post("/v1/tokens", CARD),
        provider.post("/v1/tokens", {**CARD, "card[number]": "4242424242424241"}),
        provider.post("/v1/customers", {"source": provider.token({**CARD, "card[number]": "4000000000000002"})}),
    ]
    assert [answer.headers["stripe-should-retry"] for answer in final] == ["false"] * 3
    open_ended = [
        provider.get(f"/v1/tokens/{token}"),
        provider.post("/v1/tokens", {"colour": "red"}),
        provider.post("/v1/customers", {"source": "tok_unknown"}),
    ]
    assert not ["stripe-should-retry" for answer in open_ended if "stripe-should-retry" in answer.headers]


def test_a_customer_has_the_recorded_keys(provider: Provider) -> None:
    recorded = "address balance created currency default_source delinquent description discount email id invoice_prefix"
    recorded += " invoice_settings livemode metadata name next_invoice_sequence object phone preferred_locales shipping"
    assert set(recorded.split()) <= set(provider.made("/v1/customers", {"source": "btok_us_verified"}))
