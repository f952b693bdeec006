"""Results: does a worker here sign them, and can a reader here verify them?"""

from __future__ import annotations

from collections.abc import Iterator

from tokenferry.configuration import Configuration
from tokenferry.result_signers import load_result_signers
from tokenferry.sealing import Signer, UnusableKey
from tokenferry_worker.doctor.verdicts import Check, failed, ok, refused, warning

MAKE = "make what is missing with `tokenferry keys generate --if-missing --out DIR`"
COPY = "copy the folder result-signers from where `tokenferry keys generate` wrote it"


def examine(configuration: Configuration) -> Iterator[Check]:
    """The worker's key, then the reader's folder. Each may be on another machine."""
    path = configuration.path(configuration.keys.result_signing_key)
    signer = None
    if not path.exists():
        says = "is missing: a worker here does not sign results. Readers refuse them unless [producer] envelope is 1"
        yield warning("keys results", str(path), says, MAKE)
    else:
        try:
            signer = Signer.load(path).signer_id
        except UnusableKey as error:
            yield refused("keys results", str(path), error, MAKE)
        else:
            yield ok("keys results", str(path), f"a worker here signs its results as {signer}")
    yield from _reader(configuration, signer)


def _reader(configuration: Configuration, signer: str | None) -> Iterator[Check]:
    """*signer*: the key that a worker here signs with."""
    name, folder = "keys result-signers", configuration.path(configuration.keys.result_signers)
    if configuration.producer.envelope == 1:
        says = "[producer] envelope = 1: a reader here believes results without a signature"
        yield warning(
            "keys unsigned results", str(folder), says, "take the line away when every worker signs its results"
        )
    if not any(folder.glob("*.pem")):
        yield ok(name, str(folder), "is not on this machine; only readers of results need it")
        return
    try:
        known = load_result_signers(folder)
    except UnusableKey as error:
        yield refused(name, str(folder), error, COPY)
        return
    if signer is None or signer in known:
        count = f"{len(known)} key{'' if len(known) == 1 else 's'}"
        yield ok(name, str(folder), f"{count} whose results a reader here believes")
    else:
        says = f"does not hold {signer}, so a reader here refuses what a worker here signs"
        yield failed(name, str(folder), says, COPY)
