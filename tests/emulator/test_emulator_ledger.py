"""The ledger: what a test may ask afterwards, and what nobody may find in it."""

import gc
import json

from tokenferry_emulator import EmulatorState
from tokenferry_emulator.ledger import Peak
from tokenferry_emulator.testing import BANK, CARD, Provider


def test_the_ledger_counts_tokens_uses_calls_and_objects(provider: Provider) -> None:
    token = provider.token(idempotency_key="a")
    provider.token(BANK)
    provider.made("/v1/customers", {"source": token})
    provider.refused("/v1/customers", {"source": token})
    ledger = provider.ledger()
    assert ledger["tokens_created"] == 2
    assert ledger["tokens_by_kind"] == {"card": 1, "bank_account": 1}
    assert ledger["tokens_by_idempotency_key"] == {"keys": 1, "max": 1, "repeated": {}}
    assert ledger["uses"]["total"] == ledger["uses"]["max_per_token"] == 1
    assert ledger["uses"]["tokens_used_more_than_once"] == []
    assert ledger["unused_tokens"] == 1
    assert ledger["calls"]["total"] == 4
    assert ledger["calls"]["by_status"] == {"200": 3, "400": 1}
    assert ledger["calls"]["by_endpoint"] == {"POST /v1/tokens": 2, "POST /v1/customers": 2}
    assert ledger["objects"] == {"customer": 1, "card": 1}
    assert (ledger["in_flight"], ledger["peak_in_flight"], ledger["declined"]) == (0, 1, 0)


def test_a_peak_is_the_most_calls_in_any_window_of_one_second() -> None:
    peak = Peak()
    for now in (0.0, 0.1, 0.9, 1.0, 1.05, 1.5, 3.0):
        peak.count(now)
    assert peak.highest == 4


def test_the_ledger_of_a_token_names_what_it_became(provider: Provider) -> None:
    token = provider.token()
    customer = provider.made("/v1/customers", {"source": token})["id"]
    assert provider.get(f"/_ledger/tokens/{token}").json() == {
        "id": token,
        "kind": "card",
        "uses": [customer],
        "spent": True,
        "in_use": False,
    }
    assert provider.get("/_ledger/tokens/tok_unknown").status_code == 404


def test_the_pages_of_the_ledger_hold_every_key_token_use_and_call(provider: Provider) -> None:
    token = provider.token(idempotency_key="a")
    provider.world.faults.set({"script": [{"kind": "error_503"}]})
    assert provider.refused("/v1/tokens", CARD, idempotency_key="a")[0] == 503
    assert provider.token(idempotency_key="a") == token
    customer = provider.made("/v1/customers", {"source": token})["id"]
    pages = provider.get("/_ledger/pages").json()
    assert (pages["tokens"], pages["uses"]) == ({"a": [token]}, {token: [customer]})
    assert [call[1:] for call in pages["calls"]["a"]] == [[200, ""], [503, "error_503"], [200, ""]]


def test_a_reset_forgets_tokens_and_counts(provider: Provider) -> None:
    token = provider.token(idempotency_key="a")
    provider.post("/_reset")
    assert provider.get(f"/v1/tokens/{token}").status_code == 404
    assert provider.ledger()["tokens_created"] == 0
    assert provider.token(idempotency_key="a") != token


def test_no_number_that_was_sent_is_kept_anywhere_in_the_world() -> None:
    world = EmulatorState()
    provider = Provider(world)
    secrets = ["4242424242424242", "000123456789", "987", "521734896", "4444"]
    card = {**CARD, "card[cvc]": "987"}
    customer = provider.made("/v1/customers", {"source": provider.token(card, idempotency_key="k")})["id"]
    provider.made(f"/v1/customers/{customer}/sources", {"source": provider.token(BANK)})
    provider.refused("/v1/tokens", {**card, "card[number]": "4242424242424241"})
    pii = provider.token({"pii[id_number]": "521734896"})
    person = {"person[id_number]": "521734896", "person[ssn_last_4]": "4444"}
    provider.token(person)
    provider.made("/v1/accounts", {"type": "custom", "individual[id_number]": pii, "company[tax_id]": "521734896"})
    provider.token({"cvc_update[cvc]": "987"})
    gc.collect()
    everything = _texts(world)
    assert not [secret for secret in secrets if secret in everything]
    long = [*secrets[:2], secrets[3], "4242424242424241"]
    assert not [text for text in everything for secret in long if secret in text]
    assert customer in everything


def _texts(world: EmulatorState) -> set[str]:
    """Every string that can be reached from the world, whole."""
    seen: set[int] = set()
    found: set[str] = set()
    waiting: list[object] = [world.tokens, world.things, world.ledger, world.idempotency, world.limiter, world.locks]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type) or callable(thing):
            continue
        seen.add(id(thing))
        if isinstance(thing, bytes):
            thing = thing.decode("latin-1")
        if isinstance(thing, str):
            found.add(thing)
            if thing.startswith("{"):
                waiting.append(json.loads(thing))
        else:
            waiting += gc.get_referents(thing)
    return found
