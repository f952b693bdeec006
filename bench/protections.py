"""What each protection costs per token, in CPU of this process, beside what the whole worker uses for one.

The real parts are timed one by one, each in rounds that take turns, and the median of the rounds is shown. The share is
of the CPU of a real worker process per token, measured in the same run. What travels is of version 2.

    make bench ONLY=protections
    python -m bench.protections [--rounds 7] [--calls 300] [--tokens 300] [--json]
"""

from __future__ import annotations

import argparse
import hmac
import json
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from bench.stage import CARD, ledger, limited, run, send, tokenferry, worker
from tokenferry import CardRequest
from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.envelope2 import Envelope2, Header2, read_request
from tokenferry.contract.plaintext import FORM, Plaintext, Plaintext2
from tokenferry.contract.queues import results_queue
from tokenferry.contract.results import AttachResult, Display
from tokenferry.contract.targets import CustomerCreate
from tokenferry.result_signers import ResultSigners
from tokenferry.sealing import Recipient, Signer, seal2, sign_attach
from tokenferry_worker.deliveries.answering import answered
from tokenferry_worker.deliveries.recording import to_json, to_record
from tokenferry_worker.keys.identities import Signers, load_identities
from tokenferry_worker.keys.opening import Opener, read_attach
from tokenferry_worker.keys.policy import PolicyFile
from tokenferry_worker.keys.result_signing import ResultSigner
from tokenferry_worker.keys.rights import Rights
from tokenferry_worker.limits.waits import Waits
from tokenferry_worker.outcomes import Settled

RATE: Final = 100
"""Calls per second that the worker may make while its CPU per token is measured."""
SPENT: Final = {"token": "tok_bench"}
Step = Callable[[], object]


@dataclass(frozen=True)
class Protection:
    """One row: what protects, and the work it does for one token."""

    name: str
    who: str
    step: Step


def protections(keys: Path) -> list[Protection]:
    """The work of each protection, on a card with a plan."""
    producer, ours = Signer.load(keys / "producer.pem"), Signer.load(keys / "worker.pem")
    to, signers = Recipient.load(keys / "recipient.pem"), Signers.load(keys / "signers")
    opener = Opener(load_identities(keys / "identities"), signers)
    policy = PolicyFile(keys / "policy.toml", monotonic=time.monotonic)
    plan = CustomerCreate(email="ann@example.com")
    content = Plaintext2.of(CardRequest(**CARD), plan)
    header = _header(to, producer, content)
    text = seal2(content, header, to=to, signer=producer).text()
    envelope = cast(Envelope2, read_request(text))
    opened = Plaintext(form=content.body, attach=plan)

    async def in_force() -> Any:
        return policy.current()

    rights = Rights(in_force)
    order = _order(ours, plan, text)
    ordered = sign_attach(order, ours).text()
    result = _result()
    body, queue = to_json(result), results_queue("shop")
    results, key = ResultSigner(Signer.load(keys / "result.pem")), secrets.token_bytes(32)
    message = results.message("shop", body)
    readers = ResultSigners(keys / "result-signers", unsigned=False)
    settled, waits = Settled(result, "shop"), Waits()

    def wait() -> None:
        with waits.of(header), waits.on(budgets=()):
            pass

    return [
        Protection("read the envelope strictly", "tokenize", lambda: read_request(text)),
        Protection(
            "verify its signature (Ed25519)",
            "tokenize",
            lambda: signers.verify(header.producer_id, envelope.signature, envelope.signed),
        ),
        Protection("policy: what the header shows", "tokenize", lambda: _now(rights.check_request(header))),
        Protection("open it (HPKE), and compare it with its header", "tokenize", lambda: opener.open(envelope)),
        Protection("policy: what is inside", "tokenize", lambda: _now(rights.check_content(header, opened))),
        Protection(
            "HMAC of the content, as docs/formats.md names it",
            "tokenize",
            lambda: hmac.digest(key, b"\n".join((FORM.encode(), content.canonical())), "sha256"),
        ),
        Protection("HMAC tag on the recorded outcome", "tokenize", lambda: hmac.digest(key, body.encode(), "sha256")),
        Protection("sign the order (Ed25519)", "tokenize", lambda: sign_attach(order, ours)),
        Protection("read and verify the order", "attach", lambda: read_attach(ordered, signers)),
        Protection("policy: an order", "attach", lambda: _now(rights.check_order(order))),
        Protection("HMAC tag on the spent token", "attach", lambda: hmac.digest(key, body.encode(), "sha256")),
        Protection(
            "write the answer in the asker's version", "attach", lambda: (to_record(result), answered(settled, order))
        ),
        Protection("sign the result (Ed25519)", "attach", lambda: results.message("shop", body)),
        Protection("know who waits, for notices", "both", wait),
        Protection("verify the result", "reader", lambda: readers.verify(queue, body.encode(), dict(message.headers))),
    ]


def _header(to: Recipient, producer: Signer, content: Plaintext2) -> Header2:
    assert content.plan is not None
    issued = int(time.time() * 1000)
    return Header2(
        suite=to.suite,
        key_id=to.key_id,
        producer_id=producer.signer_id,
        request_id="req-bench",
        group="legacy",
        kind="card",
        platform="bench",
        lane="bulk",
        operations=content.plan.operations(),
        plan_digest=content.plan_digest(),
        reply_to="shop",
        issued_at=issued,
        expires_at=issued + 3_600_000,
    )


def _order(signer: Signer, plan: CustomerCreate, sealed: str) -> AttachRequest:
    return AttachRequest(
        version=2,
        attach_id="req-bench",
        request_id="req-bench",
        **SPENT,
        kind="card",
        platform="bench",
        target=plan,
        reply_to="shop",
        token_created_at=1,
        attach_before=2,
        signer_id=signer.signer_id,
        display=Display(brand="Visa", last4="4242"),
        sealed=sealed,
    )


def _result() -> AttachResult:
    return AttachResult(
        outcome_id="req-bench:attach",
        request_id="req-bench",
        attach_id="req-bench",
        kind="card",
        platform="bench",
        settled_at=1,
        to="customer_create",
        **SPENT,
        object_id="cus_bench",
        object_type="customer",
    )


def _now(check: Awaitable[None]) -> None:
    """Run a check that waits for nothing."""
    try:
        check.__await__().send(None)
    except StopIteration:
        return
    raise AssertionError("the check waits for something")


def microseconds(rows: list[Protection], rounds: int, calls: int) -> Mapping[str, float]:
    """CPU of one call of each, the median of *rounds* of *calls* calls."""
    taken: dict[str, list[float]] = {row.name: [] for row in rows}
    for _ in range(rounds):
        for row in rows:
            began = time.process_time_ns()
            for _ in range(calls):
                row.step()
            taken[row.name].append((time.process_time_ns() - began) / calls / 1000)
    return {name: statistics.median(values) for name, values in taken.items()}


def per_token(tokens: int) -> float:
    """CPU of a worker process and its supervisor for one token, in microseconds, without their start."""
    used = []
    for count in (0, tokens):
        with tempfile.TemporaryDirectory(prefix="tokenferry-bench-") as name, limited(Path(name), RATE) as at:
            endpoint, config = at
            send(config, count)
            command = tokenferry("worker", "--role", "tokenize", "--processes", "1", "--config", str(config))
            with worker(command, Path(name), ready=1) as ended:
                while ledger(endpoint)["tokens_created"] < count:
                    time.sleep(0.1)
                time.sleep(1.0)
            used.append(ended())
    return (used[1] - used[0]) / tokens * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    whole = per_token(options.tokens)
    with tempfile.TemporaryDirectory(prefix="tokenferry-bench-") as name:
        run(tokenferry("keys", "generate", "--out", str(Path(name) / "keys")))
        rows = protections(Path(name) / "keys")
        taken = microseconds(rows, options.rounds, options.calls)
    if options.json:
        print(json.dumps({"per_token": whole, "protections": taken}))
        return
    print(f"A tokenize worker uses {whole:,.0f} us of CPU for a token.\n", file=sys.stderr)
    print("| protection | role | us per token | share of a token |\n|---|---|---|---|")
    for row in rows:
        share = f"{taken[row.name] / whole:.1%}" if row.who != "reader" else "-"
        print(f"| {row.name} | {row.who} | {taken[row.name]:.0f} | {share} |")


if __name__ == "__main__":
    main()
