"""Makes the vectors of version 2: `python tests/vectors/generate_version_2.py [xwing]`, from the folder of the project.

Good texts say what they mean; refused ones say why. The keys are made from words that everybody can read here, so they
protect nothing. HPKE takes a new key each time: a run writes other good texts, which are just as good.
"""

from __future__ import annotations

import json
import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519
from generate import HERE, ISSUED, REQUESTS, recipient, seed

from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.envelope import Suite
from tokenferry.contract.envelope2 import Header2
from tokenferry.contract.notices import Notice
from tokenferry.contract.plaintext import Plaintext2
from tokenferry.contract.queues import results_queue
from tokenferry.contract.result_signature import SIGNATURE_HEADER, ResultSignature, header_value, signed_bytes
from tokenferry.contract.results import AttachResult, Display, Failure, TokenResult
from tokenferry.contract.targets import CustomerSource
from tokenferry.sealing import Recipient, Signer, key_id, seal2, sign_attach
from tokenferry.xwing import public_key
from tokenferry_worker.keys.xwing_seed import expand

SUITES: dict[str, Suite] = {
    "x25519": "x25519-hkdf-sha256-aes256gcm",
    "mlkem768x25519": "mlkem768x25519-hkdf-sha256-aes256gcm",
}
FOLDER = HERE / "version2"


def decoded(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def encoded(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    signing = ed25519.Ed25519PrivateKey.from_private_bytes(seed("producer", 32))
    signer = Signer(key_id(signing.public_key().public_bytes_raw()), signing.sign)
    keys = {
        "identity": {"x25519_private": seed("identity", 32).hex(), "mlkem768_seed": seed("lattice identity", 64).hex()},
        "producer_public": signing.public_key().public_bytes_raw().hex(),
        "producer_private": seed("producer", 32).hex(),
    }
    sealed = {}
    for short, suite in SUITES.items():
        to = recipient(suite, seed("identity", 32), seed("lattice identity", 64))
        for name, (request, plan) in REQUESTS.items():
            content = Plaintext2.of(request, plan)
            header = Header2(
                suite=suite,
                key_id=to.key_id,
                producer_id=signer.signer_id,
                request_id=f"req-vector-{name}",
                group="legacy",
                kind=request.kind,
                platform="main",
                connected_account="acct_vector",
                lane="bulk",
                reply_to="vectors",
                operations=plan.operations() if plan else (),
                plan_digest=content.plan_digest(),
                batch="june",
                issued_at=ISSUED,
                expires_at=ISSUED + 259_200_000,
            )
            text = seal2(content, header, to=to, signer=signer).text()
            sealed[short, name] = text
            _write(
                f"{short}_{name}",
                {
                    **keys,
                    "text": text,
                    "header": json.loads(header.canonical()),
                    "opens_to": json.loads(content.canonical()),
                },
            )
    order = AttachRequest(
        version=2,
        attach_id="att-vector",
        request_id="req-vector",
        token="tok_vector",
        kind="bank_account",
        platform="main",
        lane="bulk",
        target=CustomerSource(customer="cus_vector", metadata={"import": "7"}),
        token_created_at=ISSUED,
        attach_before=ISSUED + 600_000,
        signer_id=signer.signer_id,
        sealed=sealed["x25519", "bank_account_with_plan"],
    )
    text = sign_attach(order, signer).text()
    _write("order", {**keys, "text": text, "order": json.loads(order.canonical())})
    _write("results", _results(signing))
    _write("refused", {**keys, "texts": _refused(sealed["x25519", "card"], text, signing)})


def xwing() -> None:
    """Write vectors whose recipient key is in the form of the draft: one seed of 32 bytes. Nothing else is written."""
    signing = ed25519.Ed25519PrivateKey.from_private_bytes(seed("producer", 32))
    signer = Signer(key_id(signing.public_key().public_bytes_raw()), signing.sign)
    _, public = expand(seed("x-wing identity", 32))
    to = Recipient(key_id(public), SUITES["mlkem768x25519"], public_key(public))
    for name, (request, plan) in REQUESTS.items():
        content = Plaintext2.of(request, plan)
        header = Header2(
            suite=to.suite,
            key_id=to.key_id,
            producer_id=signer.signer_id,
            request_id=f"req-vector-{name}",
            group="legacy",
            kind=request.kind,
            platform="main",
            lane="bulk",
            operations=plan.operations() if plan else (),
            plan_digest=content.plan_digest(),
            issued_at=ISSUED,
            expires_at=ISSUED + 259_200_000,
        )
        _write(
            f"xwing_{name}",
            {
                "identity": {"xwing_seed": seed("x-wing identity", 32).hex(), "xwing_public": public.hex()},
                "producer_public": signing.public_key().public_bytes_raw().hex(),
                "producer_private": seed("producer", 32).hex(),
                "text": seal2(content, header, to=to, signer=signer).text(),
                "header": json.loads(header.canonical()),
                "opens_to": json.loads(content.canonical()),
            },
        )


def _results(signing: ed25519.Ed25519PrivateKey) -> dict[str, Any]:
    """Answers to requests of version 2, and a notice, each with its signature for one queue."""
    public = signing.public_key().public_bytes_raw()
    queue = results_queue("vectors")
    about: dict[str, Any] = {"request_id": "req-vector", "kind": "card", "platform": "main", "settled_at": ISSUED}
    of_2: dict[str, Any] = {"group": "legacy", "generation": 1, "batch": "june"}
    attach: dict[str, Any] = {"outcome_id": "req-vector:attach", "attach_id": "req-vector", "token": "tok_vector"}
    refused = Failure(code="card_declined", source="endpoint", status=402, endpoint_request_id="req_Stripe", attempts=1)
    made = {"to": "customer_create", "object_id": "cus_vector", "object_type": "customer", "stored_id": "card_vector"}
    results: dict[str, TokenResult | AttachResult | Notice] = {
        "token": TokenResult(outcome_id="req-vector:token", token="tok_vector", created=1, **about, **of_2),
        "attach": AttachResult(
            **attach, **made, display=Display(last4="4242"), endpoint_request_id="req_Stripe", **about, **of_2
        ),
        "refused": AttachResult(**attach, to="charge", failure=refused, **about, **of_2),
        "notice": Notice(
            platform="main", reason="circuit_open", code="no_answer", scope="main/outage", since=ISSUED, until=None
        ),
        "notice of the end": Notice(
            platform="main", reason="paused", code="operator", scope="main:global", since=ISSUED, over=True
        ),
    }
    written = {}
    for name, result in results.items():
        body = result.model_dump_json(exclude_none=True)
        signature = ResultSignature(key_id(public), signing.sign(signed_bytes(queue, body.encode())))
        header = {SIGNATURE_HEADER: header_value(signature)}
        written[name] = {"body": body, "headers": header, "says": json.loads(body)}
    return {"result_public": public.hex(), "queue": queue, "results": written}


def _refused(good: str, order: str, signing: ed25519.Ed25519PrivateKey) -> list[dict[str, str]]:
    """Texts near good ones, each with the reason why a reader must refuse it."""
    prefix, header, ciphertext, signature = good.split(".")
    spelled = decoded(header)

    def signed(*parts: str) -> str:
        text = ".".join(parts)
        return f"{text}.{encoded(signing.sign(text.encode()))}"

    def headed(content: bytes) -> str:
        return signed(prefix, encoded(content), ciphertext)

    cases = {
        "padding": f"{good}==",
        "a character outside base64url": good.replace(".", ".+", 1),
        "bits behind the last byte": f"{good[:-1]}{'B' if good[-1] != 'B' else 'C'}",
        "a line feed at the end": f"{good}\n",
        "a part too many": f"{good}.AA",
        "a part is missing": f"{prefix}.{header}.{signature}",
        "the prefix of another version": good.replace("tf2e", "tf3e", 1),
        "the prefix of another kind": order.replace("tf2o", "tf2e", 1),
        "the signature of another text": signed(prefix, header, ciphertext[:-4] + "AAAA").rsplit(".", 1)[0]
        + f".{signature}",
        "a key of the header twice": headed(spelled.replace(b'"lane":"bulk"', b'"lane":"bulk","lane":"bulk"')),
        "a space in the header": headed(spelled.replace(b",", b", ", 1)),
        "another order of the keys": headed(
            json.dumps(dict(reversed(json.loads(spelled).items())), separators=(",", ":")).encode()
        ),
        "a float": headed(spelled.replace(str(ISSUED).encode(), f"{ISSUED}.0".encode())),
        "an absent field written as null": headed(
            spelled.replace(b'"connected_account"', b'"cba":null,"connected_account"')
        ),
        "a default written out": headed(spelled.replace(b'"group"', b'"generation":1,"group"')),
        "an unknown field": headed(spelled[:-1] + b',"x":1}'),
        "an escape that is not needed": headed(spelled.replace(b"req-vector", b"\\u0072eq-vector")),
    }
    return [{"why": why, "text": text} for why, text in cases.items()]


def _write(name: str, content: dict[str, Any]) -> None:
    Path(FOLDER / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    xwing() if sys.argv[1:] == ["xwing"] else main()
