"""What a signer may ask for, by the policy file: granted, or refused with the line that is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokenferry.contract.targets import AttachTarget, target_from
from tokenferry.sealing import UnusableKey
from tokenferry_worker.keys.policy import Grant, Policy, PolicyFile, TargetGrant, everything

SHOP = """
[signers.k3f0c5a7de81b94c2]
name = "web shop"
group = "shop"
roles = ["seal"]
platforms = ["main", "eu-*"]
kinds = ["card"]
lanes = ["bulk"]
longest_life_hours = 72
suites = ["x25519-hkdf-sha256-aes256gcm"]

[[signers.k3f0c5a7de81b94c2.targets]]
to = "customer_create"

[[signers.k3f0c5a7de81b94c2.targets]]
to = "charge"
max_amount = { usd = 5000 }

[[signers.k3f0c5a7de81b94c2.targets]]
to = "external_account"
destinations = ["acct_ours", "acct_team_*"]
"""


def written(folder: Path, content: str = SHOP, *, mode: int = 0o600) -> Path:
    path = folder / "policy.toml"
    path.write_text(content)
    path.chmod(mode)
    return path


@pytest.fixture
def shop(tmp_path: Path) -> Grant:
    grant = Policy.read(written(tmp_path)).grant_of("k3f0c5a7de81b94c2")
    assert grant is not None
    return grant


def asked(**changed: Any) -> dict[str, Any]:
    usual = {"role": "seal", "platform": "main", "connected_account": None, "reply_to": "shop", "lane": "bulk"}
    seen = {"kind": "card", "suite": "x25519-hkdf-sha256-aes256gcm", "life_ms": 3_600_000}
    return {**usual, **seen, **changed}


@pytest.mark.parametrize(
    "changed",
    [{}, {"platform": "eu-west"}, {"reply_to": None}, {"reply_to": "shop-2"}, {"reply_to": "import-abc"}],
)
def test_what_the_policy_grants_is_not_missing(shop: Grant, changed: dict[str, Any]) -> None:
    assert shop.missing_for(**asked(**changed)) is None


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"role": "order"}, "roles.order"),
        ({"role": "onboard"}, "roles.onboard"),
        ({"role": "worker"}, "roles.worker"),
        ({"platform": "mainly"}, "platforms"),
        ({"platform": "eu"}, "platforms"),
        ({"connected_account": "acct_1"}, "connected_accounts"),
        ({"kind": "bank_account"}, "kinds"),
        ({"kind": "cvc_update"}, "kinds"),
        ({"lane": "realtime"}, "lanes"),
        ({"suite": "mlkem768x25519-hkdf-sha256-aes256gcm"}, "suites"),
        ({"reply_to": "payroll"}, "reply_routes"),
        ({"reply_to": "shopping"}, "reply_routes"),
        ({"life_ms": 73 * 3_600_000}, "longest_life_hours"),
    ],
)
def test_the_line_that_is_missing_is_named(shop: Grant, changed: dict[str, Any], line: str) -> None:
    assert shop.missing_for(**asked(**changed)) == line


def on(to: str, **fields: Any) -> AttachTarget:
    return target_from({"to": to, **fields})  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (on("customer_create"), None),
        (on("charge", amount=5000, currency="usd"), None),
        (on("charge", amount=5001, currency="usd"), "targets.charge.max_amount"),
        (on("charge", amount=1, currency="eur"), "targets.charge.max_amount"),
        (on("external_account", account="acct_ours"), None),
        (on("external_account", account="acct_team_7"), None),
        (on("external_account", account="acct_attacker"), "targets.external_account.destinations"),
        (on("topup", amount=1, currency="usd"), "targets.topup"),
        (on("account_update", account="acct_ours"), "targets.account_update"),
    ],
)
def test_targets_are_granted_one_by_one(shop: Grant, target: AttachTarget, line: str | None) -> None:
    assert shop.missing_for_target(target) == line


def test_a_charge_that_pays_somebody_else_needs_that_destination() -> None:
    grant = everything().model_copy(update={"targets": (TargetGrant(to="charge", destinations=("acct_ours",)),)})
    paid = {"amount": 5, "currency": "usd"}
    assert grant.missing_for_target(on("charge", **paid)) is None
    assert grant.missing_for_target(on("charge", **paid, transfer_data={"destination": "acct_ours"})) is None
    for beyond in ({"transfer_data": {"destination": "acct_else"}}, {"on_behalf_of": "acct_else"}):
        assert grant.missing_for_target(on("charge", **paid, **beyond)) == "targets.charge.destinations"


def test_before_there_was_a_policy_everything_was_granted() -> None:
    legacy = everything()
    for role in ("seal", "onboard", "order", "worker"):
        assert legacy.missing_for(**asked(role=role, reply_to="anything", connected_account="acct_1")) is None
    assert legacy.missing_for_target(on("topup", amount=10**9, currency="usd")) is None
    assert legacy.may("clone_saved_card")
    assert legacy.group == "legacy"


def test_a_signer_that_the_policy_does_not_name_may_nothing(tmp_path: Path) -> None:
    assert Policy.read(written(tmp_path)).grant_of("k0000000000000000") is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[signers.k1", "is not TOML"),
        ('[signers.k1]\nname = "x"\n', "signers.k1.group"),
        (SHOP.replace('["seal"]', '["admin"]'), "signers.k3f0c5a7de81b94c2.roles.0"),
        (SHOP.replace("customer_create", "customer_crate"), "there is no target of that name"),
        (SHOP + "[extra]\n", "extra"),
        (SHOP.replace("longest_life_hours = 72", "longest_life_hours = -1"), "longest_life_hours"),
        (SHOP.replace('"eu-*"', '"*-eu"'), "platforms.1"),
    ],
)
def test_a_policy_with_a_mistake_is_refused_and_the_line_is_named(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(UnusableKey, match=says):
        Policy.read(written(tmp_path, content))


def test_a_limit_that_cannot_be_checked_is_refused(tmp_path: Path) -> None:
    content = SHOP.replace('to = "charge"', 'to = "payment_intent_confirm"')
    with pytest.raises(UnusableKey, match="max_amount cannot be checked for payment_intent_confirm"):
        Policy.read(written(tmp_path, content))


def test_a_policy_that_others_can_write_is_refused(tmp_path: Path) -> None:
    assert Policy.read(written(tmp_path, mode=0o644)).signers
    with pytest.raises(UnusableKey, match="chmod go-w"):
        Policy.read(written(tmp_path, mode=0o620))


@pytest.mark.parametrize(
    ("operations", "line"),
    [
        ((), None),
        (("POST /v1/customers",), None),
        (("POST /v1/charges",), None),
        (("POST /v1/topups",), "targets.topup"),
        (("POST /v1/payment_methods", "POST /v1/payment_methods/{made_before}/attach"), "targets.payment_method"),
        (("POST /v1/charges", "POST /v1/customers"), "targets"),
        (("POST /v1/refunds",), "targets"),
    ],
)
def test_what_the_header_says_that_the_plan_will_call_must_be_covered_by_one_granted_target(
    shop: Grant, operations: tuple[str, ...], line: str | None
) -> None:
    assert shop.missing_for_operations(operations) == line
    assert everything().missing_for_operations(operations) is None


class Seconds:
    """A clock that moves when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_change_works_after_a_second_and_a_mistake_leaves_the_last_good_one_in_force(tmp_path: Path) -> None:
    clock = Seconds()
    path = written(tmp_path)
    file = PolicyFile(path, monotonic=clock)

    written(tmp_path, SHOP.replace('"seal"', '"seal", "order"'))
    clock.now = 1.1
    granted = file.current().grant_of("k3f0c5a7de81b94c2")
    assert granted is not None
    assert granted.roles == ("seal", "order")

    written(tmp_path, "nonsense")
    clock.now = 2.2
    assert file.current().grant_of("k3f0c5a7de81b94c2") == granted
    assert file.trouble is not None
    assert "is not TOML" in file.trouble

    path.unlink()
    clock.now = 3.3
    assert file.current().grant_of("k3f0c5a7de81b94c2") == granted
    assert "cannot be read" in str(file.trouble)

    written(tmp_path, "")
    clock.now = 4.4
    assert file.current().grant_of("k3f0c5a7de81b94c2") is None
    assert file.trouble is None
