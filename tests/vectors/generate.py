"""Makes the vectors of the envelope anew: `python tests/vectors/generate.py`, from the folder of the project.

Run it only when the envelope gets a new version: old vectors must go on opening. The keys are made from words that
everybody can read here, so they protect nothing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ed25519, mlkem, x25519

from tokenferry.contract.envelope import Header, Suite
from tokenferry.contract.requests import BankAccountRequest, CardRequest, TokenRequest
from tokenferry.contract.targets import AttachTarget, CustomerSource, digest
from tokenferry.sealing import PublicKey, Recipient, Signer, key_id, seal

HERE = Path(__file__).parent
ISSUED = 1_800_000_000_000

REQUESTS: dict[str, tuple[TokenRequest, AttachTarget | None]] = {
    "card": (CardRequest(number="4242424242424242", exp_month="12", exp_year="2034", name="Zoë & Co"), None),
    "bank_account_with_plan": (
        BankAccountRequest(
            country="US",
            currency="usd",
            account_number="000123456789",
            routing_number="110000000",
            account_holder_name="Jenny Rosen",
            account_holder_type="individual",
        ),
        CustomerSource(customer="cus_vector", metadata={"import": "7"}),
    ),
}


def seed(word: str, length: int) -> bytes:
    return hashlib.shake_256(f"tokenferry test vector: {word}".encode()).digest(length)


def recipient(suite: Suite, classic: bytes, quantum: bytes) -> Recipient:
    public: PublicKey = x25519.X25519PrivateKey.from_private_bytes(classic).public_key()
    assert isinstance(public, x25519.X25519PublicKey)
    raw = public.public_bytes_raw()
    if suite.startswith("mlkem"):
        lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(quantum).public_key()
        raw = lattice.public_bytes_raw() + raw
        public = hpke.MLKEM768X25519PublicKey(lattice, public)
    return Recipient(key_id(raw), suite, public)


def main() -> None:
    signing = ed25519.Ed25519PrivateKey.from_private_bytes(seed("producer", 32))
    signer = Signer(key_id(signing.public_key().public_bytes_raw()), signing.sign)
    suites: dict[str, Suite] = {
        "x25519": "x25519-hkdf-sha256-aes256gcm",
        "mlkem768x25519": "mlkem768x25519-hkdf-sha256-aes256gcm",
    }
    for short, suite in suites.items():
        classic, quantum = seed("identity", 32), seed("lattice identity", 64)
        to = recipient(suite, classic, quantum)
        for name, (request, plan) in REQUESTS.items():
            header = Header(
                suite=suite,
                key_id=to.key_id,
                request_id=f"req-vector-{name}",
                kind=request.kind,
                platform="main",
                connected_account="acct_vector",
                lane="bulk",
                reply_to="vectors",
                attach_digest=digest(plan) if plan else None,
                issued_at=ISSUED,
                expires_at=ISSUED + 259_200_000,
                producer_id=signer.signer_id,
            )
            envelope = seal(request, header, to=to, signer=signer, attach=plan)
            vector = {
                "suite": suite,
                "identity": {"x25519_private": classic.hex(), "mlkem768_seed": quantum.hex()},
                "producer_public": signing.public_key().public_bytes_raw().hex(),
                "producer_private": seed("producer", 32).hex(),
                "envelope": json.loads(envelope.model_dump_json()),
                "opens_to": {
                    "form": request.form(),
                    "attach": json.loads(plan.model_dump_json(exclude_none=True)) if plan else None,
                },
            }
            (HERE / f"{short}_{name}.json").write_text(json.dumps(vector, indent=2) + "\n")


if __name__ == "__main__":
    main()
