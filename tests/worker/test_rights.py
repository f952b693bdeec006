"""Where the policy is asked, and what becomes of what it does not grant."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import generated
from redis.asyncio import Redis

from tokenferry.configuration import load
from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.codes import Code
from tokenferry.contract.envelope import Header
from tokenferry.contract.onboarding import OnboardingHeader, onboarding_from
from tokenferry.contract.plaintext import Plaintext
from tokenferry.contract.requests import REQUESTS, BankAccountRequest, CardRequest
from tokenferry.contract.targets import Charge, CustomerCreate
from tokenferry.sealing import Signer, UnusableKey
from tokenferry_worker.commands.signers import signers
from tokenferry_worker.doctor import rights as doctor
from tokenferry_worker.errors import NotGranted
from tokenferry_worker.keys.form_rights import names_of, rights_needed
from tokenferry_worker.keys.identities import KeyFolder, Signers, load_signer
from tokenferry_worker.keys.policy import Grant, Policy, TargetGrant, everything
from tokenferry_worker.keys.policy_source import PolicySource
from tokenferry_worker.keys.policy_text import FIRST_LINES, PolicyText, add_missing, newcomer, signers_in
from tokenferry_worker.keys.rights import Rights
from tokenferry_worker.on_redis.policy_note import RedisPolicyNote
from tokenferry_worker.on_redis.store import Store
from tokenferry_worker.outcomes import DeadLettered, Dropped

from .attaching_story import begin
from .test_tokenizing import CARD, PLAN, Story, Tell, tell  # noqa: F401

pytestmark = pytest.mark.anyio

SIGNER = "k0123456789abcdef"
SUITE = "x25519-hkdf-sha256-aes256gcm"


def granted(signer_id: str, **changed: Any) -> Rights:
    """Return the rights where one signer may everything but what is *changed*."""
    grant = Grant.model_validate({**everything().model_dump(), **changed})

    async def policy() -> Policy:
        return Policy({signer_id: grant})

    return Rights(policy)


def header(**changed: Any) -> Header:
    fields = {"key_id": "k1", "request_id": "req-1", "kind": "card", "platform": "main", "lane": "bulk"}
    when = {"issued_at": 0, "expires_at": 3_600_000, "producer_id": SIGNER, "reply_to": "shop"}
    return Header.model_validate({**fields, **when, **changed})


HEADERS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"roles": ("order", "worker", "onboard")}, {}, "roles.seal"),
    ({"platforms": ("eu",)}, {}, "platforms"),
    ({"connected_accounts": ()}, {"connected_account": "acct_1"}, "connected_accounts"),
    ({"kinds": ("pii",)}, {}, "kinds"),
    ({"lanes": ("realtime",)}, {}, "lanes"),
    ({"suites": ("mlkem768x25519-hkdf-sha256-aes256gcm",)}, {}, "suites"),
    ({"reply_routes": ("else",)}, {}, "reply_routes"),
    ({"longest_life_hours": 0.5}, {}, "longest_life_hours"),
]


@pytest.mark.parametrize(("grant", "seen", "line"), HEADERS)
async def test_each_line_of_the_header_is_checked_alone(grant: dict[str, Any], seen: dict[str, Any], line: str) -> None:
    await granted(SIGNER).check_request(header(**seen))
    with pytest.raises(NotGranted) as refusal:
        await granted(SIGNER, **grant).check_request(header(**seen))
    assert refusal.value == NotGranted(line, may_tell=line != "reply_routes")


async def test_who_is_not_in_the_policy_may_nothing_and_hears_nothing() -> None:
    with pytest.raises(NotGranted) as refusal:
        await granted("k1").check_request(header())
    assert refusal.value == NotGranted(f"signers.{SIGNER}", may_tell=False)


async def test_an_id_of_16_digits_is_the_beginning_of_one_of_32() -> None:
    for entry, signer in ((SIGNER + "0" * 16, SIGNER), (SIGNER, SIGNER + "0" * 16)):
        await granted(entry).check_request(header(producer_id=signer))


@pytest.mark.parametrize(
    ("grant", "content", "line"),
    [
        ({"targets": ()}, Plaintext(form="card[number]=1", attach=CustomerCreate()), "targets.customer_create"),
        (
            {"targets": (TargetGrant(to="charge", max_amount={"usd": 5}),)},
            Plaintext(form="card[number]=1", attach=Charge(amount=6, currency="usd")),
            "targets.charge.max_amount",
        ),
        ({"rights": ()}, Plaintext(form="customer=cus_1"), "rights.clone_saved_card"),
        ({"rights": ("clone_saved_card",)}, Plaintext(form="card[colour]=red"), "rights.extra_fields"),
    ],
)
async def test_what_is_inside_is_checked_after_opening(grant: dict[str, Any], content: Plaintext, line: str) -> None:
    await granted(SIGNER).check_content(header(), content)
    with pytest.raises(NotGranted, match=line):
        await granted(SIGNER, **grant).check_content(header(), content)


@pytest.mark.parametrize(
    ("grant", "line"),
    [
        ({"roles": ("seal", "onboard")}, "roles.order"),
        ({"roles": ("order",), "targets": ()}, "targets.charge"),
        ({"roles": ("order", "worker"), "targets": ()}, "targets.charge"),
        ({"roles": ("worker",), "targets": ()}, None),
        ({"roles": ("worker",), "platforms": ()}, "platforms"),
    ],
)
async def test_an_order_needs_the_role_and_a_producers_own_one_the_target(
    grant: dict[str, Any], line: str | None
) -> None:
    order = AttachRequest(
        attach_id="a",
        request_id="a",
        token="tok_1",
        kind="card",
        platform="main",
        target=Charge(amount=1, currency="usd"),
        token_created_at=0,
        attach_before=1,
        signer_id=SIGNER,
    )
    if line is None:
        await granted(SIGNER, **grant).check_order(order)
        return
    with pytest.raises(NotGranted, match=line):
        await granted(SIGNER, **grant).check_order(order)


async def test_a_document_needs_its_role_and_the_right_to_clone() -> None:
    fields = {**header().model_dump(exclude={"kind"}), "connected_account": None}
    clear = OnboardingHeader.model_validate(fields)
    saved = {"account": {"country": "US"}, "external_accounts": [{"bank_account": {"payment_method": "pm_1"}}]}
    await granted(SIGNER).check_document(clear, onboarding_from(saved))
    with pytest.raises(NotGranted, match="onboard"):
        await granted(SIGNER, roles=("seal",)).check_onboarding(clear)
    with pytest.raises(NotGranted, match="clone_saved_card"):
        await granted(SIGNER, rights=()).check_document(clear, onboarding_from(saved))


def test_a_form_of_the_contract_needs_no_right_whatever_is_in_it() -> None:
    forms = (
        CARD.form(),
        CardRequest(number="4242424242424242", exp_month=1, exp_year=2040, networks={"preferred": "visa"}).form(),
        BankAccountRequest(country="US", currency="usd", account_number="000123456789").form(),
    )
    assert [rights_needed(kind, form) for kind, form in zip(("card", "card", "bank_account"), forms, strict=True)] == [
        frozenset()
    ] * 3
    assert all(names_of(kind) for kind in REQUESTS)
    odd = "person[metadata][a]=1&person[full_name_aliases][0]=x&person[metadata][a][b]=1"
    assert rights_needed("person", odd.rpartition("&")[0]) == frozenset()
    assert rights_needed("person", odd) == {"extra_fields"}


# -- what becomes of a refused message


def limited(story: Story, **changed: Any) -> None:
    story.tokenizer = type(story.tokenizer)(
        **{**vars(story.tokenizer), "rights": granted(story.producer.signer_id, **changed)}
    )


@pytest.mark.parametrize("changed", [{"platforms": ()}, {"targets": ()}])
async def test_a_refused_request_is_kept_without_a_call_and_without_an_outcome(
    tell: Tell,  # noqa: F811
    changed: dict[str, Any],
) -> None:
    story = tell()
    limited(story, **changed)
    body = story.sealed(attach=PLAN)
    outcomes = [await story.handle(body) for _ in range(5)]  # more than a message may be delivered
    for outcome in outcomes:
        assert isinstance(outcome, DeadLettered)
        assert (outcome.code, outcome.settled.reply_to) == (Code.NOT_GRANTED, "importer")
        assert outcome.settled.result.outcome_id != "req-1:token"
    assert len({outcome.settled.result.outcome_id for outcome in outcomes if isinstance(outcome, DeadLettered)}) == 1
    assert story.endpoint.calls == []


async def test_a_refused_request_that_may_carry_a_code_is_dropped(tell: Tell) -> None:  # noqa: F811
    story = tell()
    limited(story, lanes=("bulk",))
    assert isinstance(await story.handle(story.sealed(lane="realtime")), Dropped)


async def test_a_refusal_is_not_told_on_a_route_that_is_not_granted(tell: Tell) -> None:  # noqa: F811
    story = tell()
    limited(story, reply_routes=("own",))
    outcome = await story.handle()
    assert isinstance(outcome, DeadLettered)
    assert outcome.settled.reply_to is None
    assert outcome.settled.result.failure is not None
    assert outcome.settled.result.failure.param == "reply_routes"


async def test_a_refused_order_touches_neither_journal_nor_ledger(key_folder: Any) -> None:
    story = begin(key_folder)
    rights = granted(story.signer.signer_id, roles=("seal",))
    story.attacher = type(story.attacher)(**{**vars(story.attacher), "rights": rights})
    outcome = await story.handle()
    assert isinstance(outcome, DeadLettered)
    assert outcome.settled.result.failure is not None
    assert outcome.settled.result.failure.param == "roles.order"
    assert story.endpoint.calls == []


# -- the file


@pytest.fixture
async def note(client: Redis, prefix: str, store: Store) -> Any:
    yield RedisPolicyNote(store)
    await client.delete(f"{prefix}:policy")


async def test_until_the_store_has_seen_a_policy_there_is_none_and_then_nothing_comes_in_without(
    tmp_path: Path, note: RedisPolicyNote, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = tmp_path / "here.toml", tmp_path / "there.toml"
    source = PolicySource(here, note)
    await source.look()
    await source.look()
    assert await source.current() is None
    assert caplog.text.count("every signer may do everything") == 1
    PolicyText(there, FIRST_LINES).save()
    await PolicySource(there, note).look()
    await source.look()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(source.current(), 0.05)
    assert source.trouble is not None
    assert "tokenferry keys generate" in source.trouble
    waiting = asyncio.create_task(source.current())
    there.rename(here)
    await source.look()
    assert await waiting == Policy({})
    assert source.trouble is None


async def test_a_first_policy_that_is_none_lets_nothing_in(tmp_path: Path, note: RedisPolicyNote) -> None:
    (tmp_path / "policy.toml").write_text("signers = [")
    source = PolicySource(tmp_path / "policy.toml", note)
    await source.look()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(source.current(), 0.05)
    assert "is not TOML" in str(source.trouble)


def test_a_removed_key_is_of_no_use_a_second_later_and_a_broken_one_does_not_keep_it(tmp_path: Path) -> None:
    keys, now = generated(tmp_path / "keys"), [0.0]
    folder = KeyFolder(keys.signers, load_signer, monotonic=lambda: now[0])
    producer, worker = (Signer.load(path).signer_id for path in (keys.producer, keys.worker))
    assert producer in folder
    next(keys.signers.glob("producer-*")).unlink()
    (keys.signers / "broken.pem").write_text("no key")
    assert producer in folder
    now[0] = 1.0
    assert producer not in folder
    assert worker in folder
    next(keys.signers.glob("worker-*")).unlink()
    now[0] = 2.0
    assert worker not in folder
    with pytest.raises(UnusableKey):
        Signers.load(tmp_path)


# -- the commands


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    generated(tmp_path / "keys")
    (tmp_path / "tokenferry.toml").write_text("[keys]\n")
    return tmp_path / "tokenferry.toml"


def run(toml: Path, *words: str) -> Result:
    return CliRunner().invoke(signers, [*words, "--config", str(toml)])


def test_generate_writes_an_entry_for_each_signer_and_changes_none(toml: Path) -> None:
    path = toml.parent / "keys" / "policy.toml"
    assert path.stat().st_mode & 0o777 == 0o600
    by_name = {grant.name: grant for grant in Policy.read(path).signers.values()}
    assert (by_name["producer"], by_name["worker"]) == (
        newcomer("producer", ("seal", "onboard")),
        newcomer("worker", ("worker",)),
    )
    run(toml, "grant", "producer", "--role", "order")
    before = path.read_text()
    generated(toml.parent / "keys")
    assert path.read_text() == before


def test_signers_from_before_there_was_a_policy_keep_every_right(toml: Path) -> None:
    keys = toml.parent / "keys"
    (keys / "policy.toml").unlink()
    generated(keys)
    grants = Policy.read(keys / "policy.toml").signers.values()
    assert {grant.roles for grant in grants} == {everything().roles}
    add_missing(keys, signers_in(keys / "signers"))
    assert len(Policy.read(keys / "policy.toml").signers) == 2


def test_signers_are_added_granted_and_revoked_and_comments_stay(toml: Path, tmp_path: Path) -> None:
    other = generated(tmp_path / "other")
    (file,) = other.signers.glob("producer-*")
    path = tmp_path / "keys" / "policy.toml"
    path.write_text(path.read_text() + "\n# the end\n")
    assert run(toml, "add", str(file), "--name", "shop").exit_code == 2
    options = ["--role", "seal", "--target", "charge", "--max-amount", "usd=500", "--reply-route", "shop-*"]
    assert run(toml, "add", str(file), "--name", "shop", *options).exit_code == 0
    signer_id = Signer.load(other.producer).signer_id
    grant = Policy.read(path).signers[signer_id]
    assert grant.targets == (TargetGrant(to="charge", max_amount={"usd": 500}),)
    assert (grant.roles, grant.reply_routes, grant.platforms) == (("seal",), ("shop-*",), ("*",))
    assert signer_id in signers_in(tmp_path / "keys" / "signers")
    assert run(toml, "grant", "shop", "--role", "order", "--target", "topup").exit_code == 0
    grant = Policy.read(path).signers[signer_id]
    assert ([each.to for each in grant.targets], grant.roles) == (["charge", "topup"], ("seal", "order"))
    assert run(toml, "revoke", "shop", "--role", "order").exit_code == 0
    assert Policy.read(path).signers[signer_id].roles == ("seal",)
    assert run(toml, "revoke", signer_id).exit_code == 0
    assert Policy.read(path).signers[signer_id].roles == ()
    assert "# the end" in path.read_text()
    assert path.read_text().startswith("# Who may ask")
    assert run(toml, "grant", "nobody", "--role", "order").exit_code == 2
    listed = json.loads(run(toml, "list", "--json").output)
    assert {entry["name"] for entry in listed["signers"]} == {"producer", "worker", "shop"}
    assert "shop" in run(toml, "list").output


def test_the_doctor_says_who_may_what_and_which_key_or_entry_stands_alone(toml: Path, tmp_path: Path) -> None:
    configuration = load(toml)
    assert [check.state for check in doctor.examine(configuration)] == ["ok", "ok"]
    (file,) = generated(tmp_path / "other").signers.glob("producer-*")
    (tmp_path / "keys" / "signers" / "stranger.pem").write_bytes(file.read_bytes())
    next((tmp_path / "keys" / "signers").glob("producer-*")).unlink()
    found = {check.subject: check for check in doctor.examine(configuration)}
    assert {name: check.state for name, check in found.items()} == {
        "producer": "warning",
        "worker": "ok",
        "stranger.pem": "warning",
    }
    assert "seal, onboard" in found["producer"].says
    (tmp_path / "keys" / "policy.toml").unlink()
    assert [check.state for check in doctor.examine(configuration)] == ["warning"]
