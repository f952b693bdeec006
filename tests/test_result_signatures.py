"""A reader believes what a worker signed for its route. A forged result has no effect, and the genuine one is read."""

from __future__ import annotations

import json
import random
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from broker.places import KINDS, Place, place
from click.testing import CliRunner
from result_signing import signature, signed, write_result_key

from tokenferry import AsyncResults, CardRequest, Producer, Results, TokenResult, UnusableKey
from tokenferry.broker.publishing import Outgoing, Publisher
from tokenferry.cli import main
from tokenferry.configuration import Configuration, load
from tokenferry.contract.notices import Notice
from tokenferry.contract.queues import QUARANTINE, results_queue
from tokenferry.contract.result_signature import (
    SIGNATURE_HEADER,
    ResultSignature,
    header_value,
    only_signature,
    read_header_value,
    signed_bytes,
)
from tokenferry.contract.results import AnyResult, OnboardingProgress, StepResult
from tokenferry.outbox.store import OutboxStore
from tokenferry.result_signers import ResultSigners
from tokenferry.sealing import Signer
from tokenferry_worker.keys.missing import warn_of_missing_keys
from tokenferry_worker.keys.result_signing import ResultSigner

from .conftest import KeyFolder

CARD = CardRequest(number="4242424242424242", exp_month="12", exp_year="2044")
NOTE = "unverified result"


@pytest.fixture(scope="module", params=KINDS)
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(request, tmp_path_factory, database=6) as broker:
        yield broker


@dataclass
class Reader:
    """A route, and the machine of whoever reads it: producer keys, result signers, an outbox."""

    broker: Place
    keys: KeyFolder
    folder: Path
    name: str = field(default_factory=lambda: f"r{secrets.token_hex(6)}")
    platform: str = field(default_factory=lambda: f"p{secrets.token_hex(6)}")

    def __post_init__(self) -> None:
        shutil.copytree(self.keys.result_signers, self.signers)
        self.configure()

    @property
    def signers(self) -> Path:
        return self.folder / "result-signers"

    @property
    def config(self) -> Path:
        return self.folder / "tokenferry.toml"

    @property
    def queue(self) -> str:
        return results_queue(self.name)

    def configure(self, more: str = "") -> Configuration:
        self.config.write_text(
            f'[broker]\nurl = "{self.broker.url}"\nlease_seconds = 1.0\npublish_timeout = 5.0\n'
            f'[outbox]\npath = "outbox.db"\n[keys]\nrecipient = "{self.keys.recipient}"\n'
            f'producer_signing_key = "{self.keys.producer}"\nresult_signers = "result-signers"\n'
            f"[platforms.{self.platform}]\n{more}"
        )
        return load(self.config)

    def put(self, *messages: Outgoing) -> None:
        with Publisher.to(load(self.config)) as publisher:
            for message in messages:
                publisher.publish(message)

    def genuine(self, name: str, key: Path | None = None, **changed: Any) -> Outgoing:
        return signed(self.queue, outcome(name, **changed), key or self.keys.result)

    def read(self, seconds: float = 0.5) -> list[str]:
        """The tokens of all results on the route, taken off it."""
        found = []
        with Results(self.name, load(self.config)) as results:
            while (result := results.take(seconds)) is not None:
                found.append(token(result))
        return found

    def look(self, *words: str) -> Any:
        return CliRunner().invoke(main, ["results", self.name, *words, "--config", str(self.config)])

    def quarantined(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.broker.take(QUARANTINE)]

    def in_outbox(self) -> int:
        book = OutboxStore(self.folder / "outbox.db", durable=False)
        try:
            found = book.status(now=int(time.time() * 1000))
            return int(found["waiting"]) + int(found["confirmed"])
        finally:
            book.close()


@pytest.fixture
def reader(broker: Place, tmp_path: Path, key_folder: KeyFolder) -> Iterator[Reader]:
    broker.take(QUARANTINE)
    reader = Reader(broker, key_folder, tmp_path)
    yield reader
    broker.take(reader.queue)


def outcome(name: str, **changed: Any) -> str:
    about = {"outcome_id": f"{name}:token", "request_id": name, "kind": "card", "platform": "main", "settled_at": 1}
    return TokenResult(**{"token": f"tok_{name}", **about, **changed}).model_dump_json(exclude_none=True)


def token(result: AnyResult | None) -> str:
    assert isinstance(result, TokenResult)
    return str(result.token)


# -- forged results


def test_a_forged_result_leaves_the_outbox_its_only_copy_and_the_genuine_one_is_read(reader: Reader) -> None:
    with Producer(reader.config) as producer, Results(reader.name, reader.config) as results:
        request_id = producer.send(CARD, reply_to=reader.name)
        while not producer.everything_sent:
            time.sleep(0.02)
        kept = reader.in_outbox()
        assert kept == 1
        forged = outcome(request_id, token="tok_attacker")
        reader.put(Outgoing(reader.queue, forged))
        assert results.take(1.0) is None
        assert results.refused == {NOTE: 1}
        assert reader.in_outbox() == kept
        reader.put(reader.genuine(request_id, token="tok_genuine"))
        assert token(results.take(10.0)) == "tok_genuine"
        assert results.take(0.2) is None
        assert reader.in_outbox() == 0
    (note,) = reader.quarantined()
    assert note == {"reason": NOTE, "message": "", "bytes": len(forged)}
    assert reader.broker.take(reader.queue) == []


def test_a_result_that_was_moved_to_another_route_is_refused(reader: Reader) -> None:
    message = reader.genuine("a")
    elsewhere = signed(results_queue("another-route"), message.body, reader.keys.result)
    reader.put(Outgoing(reader.queue, elsewhere.body, elsewhere.headers), message)
    assert reader.read() == ["tok_a"]
    assert [note["reason"] for note in reader.quarantined()] == [NOTE]


def test_a_bit_changed_in_body_or_signature_is_refused(reader: Reader) -> None:
    message = reader.genuine("a")
    value = message.headers[SIGNATURE_HEADER]
    other = "A" if value[30] != "A" else "B"
    reader.put(
        Outgoing(reader.queue, message.body.replace("tok_a", "tok_b"), message.headers),
        Outgoing(reader.queue, message.body + " ", message.headers),
        Outgoing(reader.queue, message.body, {SIGNATURE_HEADER: value[:30] + other + value[31:]}),
        message,
    )
    assert reader.read() == ["tok_a"]
    assert len(reader.quarantined()) == 3


def test_a_key_that_signs_other_things_signs_no_results(reader: Reader) -> None:
    for other in (reader.keys.producer, reader.keys.worker):
        reader.put(reader.genuine("a", other))
    assert reader.read() == []
    assert len(reader.quarantined()) == 2


NOTICE = Notice(platform="main", reason="circuit_open", code="no_answer", scope="main/outage", since=1)


def notice(reader: Reader, **changed: Any) -> Outgoing:
    body = NOTICE.model_copy(update=changed).model_dump_json(exclude_none=True)
    return signed(reader.queue, body, reader.keys.result)


def test_a_notice_goes_to_whoever_asks_for_notices_and_is_no_result(reader: Reader) -> None:
    with Producer(reader.config) as producer:
        producer.send(CARD, reply_to=reader.name)
    kept = reader.in_outbox()
    told: list[Notice] = []
    reader.put(notice(reader), notice(reader, over=True), reader.genuine("a"))
    with Results(reader.name, load(reader.config), on_notice=told.append) as results:
        assert token(results.take(10.0)) == "tok_a"
        assert results.take(0.2) is None
        assert not results.refused
    assert [(each.reason, each.over) for each in told] == [("circuit_open", False), ("circuit_open", True)]
    assert reader.in_outbox() == kept
    assert reader.broker.take(reader.queue) == []


def test_a_reader_that_asks_for_no_notices_never_sees_one(reader: Reader) -> None:
    reader.put(notice(reader), reader.genuine("a"), notice(reader, over=True))
    assert reader.read() == ["tok_a"]
    assert reader.broker.take(reader.queue) == []
    assert reader.quarantined() == []


def test_a_forged_notice_is_set_aside_and_so_is_one_that_is_signed_as_a_result(reader: Reader) -> None:
    body = NOTICE.model_dump_json(exclude_none=True)
    key = Signer.load(reader.keys.result)
    as_result = key.sign(b"\0".join((b"tokenferry/v2/result", reader.queue.encode(), body.encode())))
    value = header_value(ResultSignature(key.signer_id, as_result))
    reader.put(Outgoing(reader.queue, body), Outgoing(reader.queue, body, {SIGNATURE_HEADER: value}))
    told: list[Notice] = []
    with Results(reader.name, load(reader.config), on_notice=told.append) as results:
        assert results.take(1.0) is None
        assert results.refused == {NOTE: 2}
    assert told == []


def test_the_results_command_says_why_requests_wait_and_prints_results_only(reader: Reader) -> None:
    reader.put(notice(reader), reader.genuine("a"))
    looked = reader.look()
    assert [json.loads(line)["token"] for line in looked.stdout.splitlines()] == ["tok_a"]
    assert "waiting: the workers make no call of main/outage (no_answer), since " in looked.stderr
    taken = reader.look("--out", str(reader.folder / "taken.jsonl"))
    assert "waiting: the workers make no call of main/outage" in taken.stderr
    assert (reader.folder / "taken.jsonl").read_text().count("\n") == 1


@pytest.mark.anyio
async def test_a_program_with_asyncio_gets_notices_in_its_own_loop(reader: Reader) -> None:
    told: list[tuple[Notice, int]] = []
    reader.put(notice(reader), reader.genuine("a"))

    def keep(each: Notice) -> None:
        told.append((each, threading.get_ident()))

    async with AsyncResults(reader.name, load(reader.config), on_notice=keep) as results:
        async for result in results:
            assert token(result) == "tok_a"
            results.stop()
    assert told == [(NOTICE, threading.get_ident())]


def test_progress_is_verified_too(reader: Reader) -> None:
    step = StepResult(step="account", status="done")
    progress = OnboardingProgress(request_id="a", onboarding_id="on-1", step=step, taken=1, steps=2)
    worker = ResultSigner.load(
        load(reader.config).model_copy(
            update={"keys": load(reader.config).keys.model_copy(update={"result_signing_key": reader.keys.result})}
        )
    )
    message = worker.message(reader.name, progress.model_dump_json(exclude_none=True))
    reader.put(message, Outgoing(reader.queue, message.body))
    told: list[OnboardingProgress] = []
    with Results(reader.name, load(reader.config), on_progress=told.append) as results:
        assert results.take(1.0) is None
    assert told == [progress]
    assert [note["reason"] for note in reader.quarantined()] == [NOTE]


def test_no_other_header_reaches_the_reader(reader: Reader) -> None:
    message = reader.genuine("a")
    reader.put(Outgoing(reader.queue, message.body, {"task": "x", "expires": "y", **message.headers}))
    with Results(reader.name, load(reader.config)) as results:
        assert token(results.hold(10.0)) == "tok_a"
        ((delivery,),) = results._held.values()
        assert delivery.headers == message.headers
        assert delivery.properties == {}


def test_looking_shows_verified_results_only_and_counts_the_others(reader: Reader) -> None:
    reader.put(Outgoing(reader.queue, outcome("forged")), reader.genuine("a"))
    seen = reader.look()
    assert [json.loads(line)["token"] for line in seen.stdout.splitlines()] == ["tok_a"]
    assert "1 on the route not shown: no known worker has signed it." in seen.stderr
    taken = reader.look("--out", str(reader.folder / "out.jsonl"))
    assert "1 result of route" in taken.stdout
    assert "tok_forged" not in (reader.folder / "out.jsonl").read_text()


# -- rotating the key


def test_several_keys_verify_at_a_time_and_a_new_one_is_found_without_a_restart(reader: Reader) -> None:
    next_key = write_result_key(reader.folder, "next")
    (reader.signers / "next.pem").rename(reader.folder / "next-public.pem")
    with Results(reader.name, load(reader.config)) as results:
        reader.put(reader.genuine("a"), reader.genuine("early", next_key))
        assert token(results.take(10.0)) == "tok_a"
        assert results.take(0.2) is None
        shutil.copy(reader.folder / "next-public.pem", reader.signers)
        reader.put(reader.genuine("b", next_key), reader.genuine("c"))
        assert [token(results.take(10.0)), token(results.take(10.0))] == ["tok_b", "tok_c"]
    assert len(reader.quarantined()) == 1


def test_a_key_that_is_removed_is_believed_for_a_second_at_most(tmp_path: Path, key_folder: KeyFolder) -> None:
    folder = tmp_path / "result-signers"
    shutil.copytree(key_folder.result_signers, folder)
    write_result_key(tmp_path, "next")
    now = 0.0
    signers = ResultSigners(folder, unsigned=False, clock=lambda: now)
    headers = {SIGNATURE_HEADER: signature("results.r", "body", key_folder.result)}
    assert signers.verify("results.r", b"body", headers)
    for path in key_folder.result_signers.iterdir():
        (folder / path.name).unlink()
    now = 1.0
    assert not signers.verify("results.r", b"body", headers)


def test_a_folder_that_cannot_be_read_any_more_changes_nothing_and_is_said_once(
    tmp_path: Path, key_folder: KeyFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "result-signers"
    shutil.copytree(key_folder.result_signers, folder)
    now = 0.0
    signers = ResultSigners(folder, unsigned=False, clock=lambda: now)
    (folder / "spoilt.pem").write_text("no key")
    headers = {SIGNATURE_HEADER: signature("results.r", "body", key_folder.result)}
    for now in (1.0, 2.0, 3.0):  # noqa: B007  # the clock reads it
        assert signers.verify("results.r", b"body", headers)
    assert caplog.text.count("spoilt.pem: is not an Ed25519 public key") == 1


# -- old and new versions side by side


def test_a_result_of_an_old_worker_is_read_only_while_envelope_1_is_configured(
    reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    reader.put(Outgoing(reader.queue, outcome("old")), reader.genuine("new"))
    reader.configure("[producer]\nenvelope = 1\n")
    assert reader.read() == ["tok_old", "tok_new"]
    assert caplog.text.count("results without a signature are believed") == 1
    reader.put(Outgoing(reader.queue, outcome("old")))
    reader.configure()
    assert reader.read() == []


def test_with_envelope_1_a_wrong_signature_and_an_unknown_key_are_refused_all_the_same(reader: Reader) -> None:
    reader.configure("[producer]\nenvelope = 1\n")
    stranger = write_result_key(reader.folder, "stranger")
    (reader.signers / "stranger.pem").unlink()
    message = reader.genuine("a")
    reader.put(
        Outgoing(reader.queue, message.body.replace("tok_a", "tok_b"), message.headers),
        Outgoing(reader.queue, message.body, {SIGNATURE_HEADER: "no signature"}),
        reader.genuine("c", stranger),
    )
    assert reader.read() == []
    assert len(reader.quarantined()) == 3


def test_with_envelope_1_and_no_key_yet_the_results_of_new_workers_are_read_too(
    reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    """In a rolling upgrade new workers sign before their readers have the keys."""
    reader.configure("[producer]\nenvelope = 1\n")
    shutil.rmtree(reader.signers)
    reader.put(Outgoing(reader.queue, outcome("old")), reader.genuine("new"))
    assert reader.read() == ["tok_old", "tok_new"]
    assert "none is verified" in caplog.text


@pytest.fixture
def bare(tmp_path: Path, key_folder: KeyFolder) -> Path:
    """The configuration of a machine of the version before: it has no result signers. Its broker is away."""
    config = tmp_path / "tokenferry.toml"
    config.write_text(
        f'[broker]\nurl = "redis://127.0.0.1:1/0"\npublish_timeout = 0.5\n'
        f'[keys]\nrecipient = "{key_folder.recipient}"\n'
        f'producer_signing_key = "{key_folder.producer}"\n[platforms.main]\n'
    )
    return config


def test_a_reader_without_keys_does_not_start_and_says_what_to_copy_or_to_write(bare: Path) -> None:
    with pytest.raises(UnusableKey) as refused:
        Results("shop", bare)
    said = str(refused.value)
    assert str(bare.parent / "keys" / "result-signers") in said
    assert "Copy the folder result-signers here from where `tokenferry keys generate` wrote it" in said
    assert "keys generate --if-missing --out DIR" in said
    assert "envelope = 1 below [producer]" in said


@pytest.mark.parametrize(
    "command",
    [
        ["results", "shop"],
        ["results", "shop", "--out", "out.jsonl"],
        ["send", "--kind", "card", "--json-input", "card.json", "--wait"],
        ["attach", "tok_1", "--kind", "card", "--to", "customer_create", "--wait"],
        ["attach", "--from-route", "shop", "--rejects", "r.jsonl", "--to", "customer_create"],
        ["import", "rows.csv", "--results", "o.jsonl", "--rejects", "r.csv"],
        ["onboard", "accounts.jsonl", "--results", "o.jsonl", "--rejects", "r.csv"],
    ],
    ids=lambda command: " ".join(word for word in command if "." not in word),
)
def test_every_command_that_reads_a_route_refuses_before_it_does_anything(
    bare: Path, in_folder: Callable[[Path], None], command: list[str]
) -> None:
    """The broker is away: what had been tried would end with 1."""
    in_folder(bare.parent)
    Path("card.json").write_text('{"number": "4242424242424242", "exp_month": "12", "exp_year": "2044"}')
    Path("rows.csv").write_text("kind,number,exp_month,exp_year\ncard,4242424242424242,12,2044\n")
    Path("accounts.jsonl").write_text('{"reference": "s", "account": {"country": "US", "type": "custom"}}\n')
    done = CliRunner().invoke(main, [*command, "--config", str(bare)])
    assert (done.exit_code, "result-signers: holds no public key" in done.stderr) == (2, True), done.output
    assert not any(Path(name).exists() for name in ("o.jsonl", "r.csv", "r.jsonl", "out.jsonl"))


def test_a_worker_without_the_key_says_so_once_and_does_not_sign(bare: Path, caplog: pytest.LogCaptureFixture) -> None:
    configuration = load(bare)
    warn_of_missing_keys(configuration)
    (record,) = caplog.records
    assert "result.pem is missing, so results are not signed" in record.message
    assert "keys generate --if-missing" in record.message
    assert ResultSigner.load(configuration).message("shop", outcome("a")) == Outgoing("results.shop", outcome("a"))


def test_a_key_of_results_that_others_can_read_stops_the_worker(bare: Path, key_folder: KeyFolder) -> None:
    (bare.parent / "keys").mkdir()
    shutil.copy(key_folder.result, bare.parent / "keys" / "result.pem")
    (bare.parent / "keys" / "result.pem").chmod(0o644)
    with pytest.raises(UnusableKey, match="readable by others"):
        ResultSigner.load(load(bare))


# -- the format


def test_the_signed_bytes_and_the_header_are_as_documented(key_folder: KeyFolder) -> None:
    """Pinned: a reader of a later version verifies what this one signs."""
    assert signed_bytes("results.shop", b"{}") == b"tokenferry/v2/result\x00results.shop\x00{}"
    one = ResultSignature("k0123456789abcdef", bytes(range(64)))
    value = header_value(one)
    assert value == (
        "k0123456789abcdef.AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0-Pw"
    )
    assert read_header_value(value) == one
    assert SIGNATURE_HEADER == "tokenferry-signature"


@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "k0123456789abcdef",
        "k0123456789abcdef." + "A" * 85,
        "k0123456789abcdef." + "A" * 87,
        "k0123456789abcdef." + "A" * 85 + "B",
        "k0123456789abcdef." + "A" * 86 + "==",
        "k0123456789abcdef." + "A" * 85 + "+",
        "k0123456789abcdef." + "A" * 86 + "\n",
        " k0123456789abcdef." + "A" * 86,
        "K0123456789ABCDEF." + "A" * 86,
        "k0123456789abcde." + "A" * 86,
        "k0123456789abcdef0." + "A" * 86,
        "k\u0660123456789abcdef." + "A" * 86,  # a digit, and not one of ASCII
    ],
)
def test_a_header_has_one_spelling(value: str) -> None:
    assert read_header_value(value) is None


@pytest.mark.parametrize("value", [None, 7, b"bytes", ["k"], {"k": "v"}, "k" * 1_000_000])
def test_a_header_of_another_type_or_length_is_kept_as_one_that_does_not_verify(value: object) -> None:
    assert only_signature({SIGNATURE_HEADER: value, "x": 1}) == {SIGNATURE_HEADER: ""}


def test_of_2000_mutations_of_body_header_and_queue_none_is_believed(key_folder: KeyFolder) -> None:
    dice = random.Random(12)
    signers = ResultSigners(key_folder.result_signers, unsigned=False)
    queue, body = "results.shop", outcome("a", settled_at=1_764_000_000_000).encode()
    value = signature(queue, body.decode(), key_folder.result)
    genuine = (queue, body, value)
    assert signers.verify(queue, body, {SIGNATURE_HEADER: value})
    believed = tried = 0
    while tried < 2_000:
        changed: list[Any] = list(genuine)
        which = dice.choice((0, 1, 1, 2, 2))
        raw = changed[which] if which == 1 else changed[which].encode()
        mutated = mutation(raw, dice)
        changed[which] = mutated if which == 1 else mutated.decode("latin-1")
        if tuple(changed) == genuine:
            continue
        tried += 1
        believed += signers.verify(changed[0], changed[1], only_signature({SIGNATURE_HEADER: changed[2]}))
    assert believed == 0


def mutation(raw: bytes, dice: random.Random) -> bytes:
    """*raw* with a bit, a byte, a piece or a place changed."""
    at, end = sorted(dice.randrange(len(raw)) for _ in range(2))
    match dice.randrange(7):
        case 0:
            return raw[:at] + bytes([raw[at] ^ 1 << dice.randrange(8)]) + raw[at + 1 :]
        case 1:
            return raw[:at] + dice.randbytes(1) + raw[at:]
        case 2:
            return raw[:at] + raw[end + 1 :]
        case 3:
            return raw[:at] + raw[at:end] + raw[at:end] + raw[end:]
        case 4:
            return raw[:at] + raw[at:].swapcase()
        case 5:
            return raw + dice.choice((b"\0", b" ", b"=", b"\n", b".", b"{}"))
        case _:
            return raw[:at] + raw[end : end + 1] + raw[at + 1 : end] + raw[at : at + 1] + raw[end + 1 :]


def test_configuration_takes_one_and_two_only(tmp_path: Path) -> None:
    path = tmp_path / "tokenferry.toml"
    path.write_text("")
    assert load(path).producer.envelope == 2
    path.write_text("[producer]\nenvelope = 3\n")
    with pytest.raises(ValueError, match=r"\[producer\] envelope"):
        load(path)
