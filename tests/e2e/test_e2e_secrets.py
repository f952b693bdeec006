"""What was sealed is nowhere: not in a log, a queue, the store, a result, a file, or a process's table entry."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from e2e import cargo
from e2e.house import House, Worker, until
from e2e.leaks import found

from tokenferry import BankAccountRequest, CardRequest, Order
from tokenferry.broker.publishing import Outgoing
from tokenferry.contract.queues import TOKENIZE_TASK, tokenize_queue
from tokenferry.contract.targets import CustomerCreate

CVC = "987"
CANARIES = (
    *cargo.CARDS,
    cargo.DECLINED_BY_CUSTOMERS,
    cargo.UNKNOWN_ACCOUNT,
    cargo.WRONG_NUMBER,
    "000123456789",  # bank account
    "222222222",  # pii
    "111111111",  # person
    "Wilhelmina",
    "Quagmire",
    "address_full_match",
    # Three digits are everywhere, so the verification code is looked for beside its name.
    f"card[cvc]={CVC}",
    f"cvc_update[cvc]={CVC}",
    f"cvc={CVC}",
    f"cvc%5D={CVC}",
    f"cvc': '{CVC}",
    f'cvc": "{CVC}',
    f'cvc":"{CVC}',
)
ENDPOINT_SECRETS = ("sk_test_alpha", "pk_test_alpha", "sk_test_paced")


@pytest.mark.parametrize(
    "hidden",
    [
        b"number=%s",
        b'{"body": "%s"}',
        lambda secret: base64.b64encode(b"x" + secret + b"more"),
        lambda secret: base64.urlsafe_b64encode(b"xy" + secret),
        lambda secret: base64.b64encode(json.dumps([base64.b64encode(b"number=" + secret).decode()]).encode()),
        lambda secret: b"a" + base64.b64encode(secret + b"??>>"),
        lambda secret: secret.hex().encode(),
    ],
)
def test_the_search_finds_what_is_hidden(hidden: object) -> None:
    for secret in ("4242424242424242", "address_full_match"):
        planted = hidden(secret.encode()) if callable(hidden) else hidden % secret.encode()  # type: ignore[operator]
        assert found([secret, "000123456789"], [b"nothing", planted]) == {secret}
    planted = quote("card[cvc]=987").encode()
    assert found([f"card[cvc]={CVC}"], [planted]) == {f"card[cvc]={CVC}"}


def orders(reply_to: str) -> Iterator[Order]:
    """Every kind, a refusal at the tokenization and one at the spending, and cards with verification codes."""
    for request in cargo.one_of_every_kind():
        yield Order(request, platform="main", reply_to=reply_to)
    for at in range(len(cargo.CARDS)):
        plain = cargo.card(at)
        with_code = CardRequest(number=plain.number, exp_month="12", exp_year="2044", cvc=CVC)
        yield Order(with_code, platform="main", reply_to=reply_to, attach=CustomerCreate() if at % 2 else None)
    declined = CardRequest(
        number=cargo.DECLINED_BY_CUSTOMERS, exp_month="12", exp_year="2044", cvc=CVC, name="Wilhelmina Quagmire"
    )
    yield Order(declined, platform="main", reply_to=reply_to, attach=CustomerCreate())
    unknown = BankAccountRequest(
        country="US", currency="usd", account_number=cargo.UNKNOWN_ACCOUNT, routing_number="110000000"
    )
    yield Order(unknown, platform="main", reply_to=reply_to)


def test_no_secret_is_readable_anywhere_whatever_happens_to_its_request(house: House, tmp_path: Path) -> None:
    route, content = house.route(), Content(house)
    request_ids = house.send(orders(route.name))
    content.look()  # at rest in the queue
    faults = [
        {"kind": kind, "times": times, "path": "/v1/tokens"}
        for kind, times in (("error_500", 3), ("error_502_html_after", 2), ("truncated_json", 2), ("reset_after", 2))
    ]
    house.http.post("/_faults", json={"script": faults})
    crashed = house.worker()
    until(lambda: house.ledger()["calls"]["total"] >= 6, "calls under way")
    content.look(crashed)
    crashed.kill()
    content.look()  # in the hands of the dead
    house.producer.publisher.publish(
        Outgoing.task(tokenize_queue("bulk", "main"), TOKENIZE_TASK, "req-garbage", '{"number": "garbage"}')
    )
    with house.working(real=True) as worker:  # whose environment is its own
        route.gather(len(request_ids), seconds=60.0)
        content.pieces += import_a_file(house, tmp_path)
        house.until_all_is_done()
        content.look(worker)
    content.look()
    content.pieces += house.written()
    outcomes = route.of(request_ids)
    codes = [result.failure.code for result in outcomes.values() if result.failure is not None]
    assert sorted(codes) == ["account_number_invalid", "card_declined"], "each of the others got its token"
    content.pieces += route.bodies
    assert len(content.pieces) > 100
    assert found(CANARIES, content.pieces) == set()
    assert found(ENDPOINT_SECRETS, content.pieces) == set()
    # The environment of a worker holds the endpoint's keys, by the operator's choice; nothing of a request is in it.
    assert found(CANARIES, content.environments) == set()
    assert found(["sk_test_alpha"], content.environments) == {"sk_test_alpha"}, "the search works"


ROWS = f"""\
key,kind,number,exp_month,exp_year,country,currency,account_number,routing_number,account_holder_name
good,card,4242424242424242,12,2044,,,,,
wrong,card,{cargo.WRONG_NUMBER},12,2044,,,,,Quagmire
bank,bank_account,,,,US,usd,000123456789,110000000,Wilhelmina Quagmire
refused,bank_account,,,,US,usd,{cargo.UNKNOWN_ACCOUNT},110000000,Wilhelmina Quagmire
"""


def import_a_file(house: House, folder: Path) -> Iterator[bytes]:
    """Import one file with good, refused and unsendable rows: everything that is written or said about it."""
    (folder / "rows.csv").write_text(ROWS)
    out, rejects = folder / "out.jsonl", folder / "rejects.csv"
    command = ["import", str(folder / "rows.csv"), "--results", str(out), "--rejects", str(rejects)]
    options = ["--platform", "main", "--config", str(house.folder / "tokenferry.toml")]
    program = house.start([sys.executable, "-m", "tokenferry.cli", *command, *options], "import")
    assert program.process.wait(40) == 1, program.said()  # some rows were refused
    assert sorted(json.loads(line)["status"] for line in out.read_text().splitlines()) == [
        "declined",
        "tokenized",
        "tokenized",
    ]
    yield from (program.log.read_bytes(), out.read_bytes(), rejects.read_bytes())


class Content:
    """Whatever can be read from outside, gathered at several moments."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.pieces: list[bytes] = []
        self.environments: list[bytes] = []

    def look(self, worker: Worker | None = None) -> None:
        """Take a copy of everything in broker and store and, of *worker*, of what its processes show."""
        self.pieces += self.house.broker.contents()
        for pid in [worker.pid, *worker.children()] if worker else []:
            with suppress(OSError):
                self.pieces.append(Path(f"/proc/{pid}/cmdline").read_bytes())
                self.environments.append(Path(f"/proc/{pid}/environ").read_bytes())
