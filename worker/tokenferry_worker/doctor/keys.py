"""Checks the keys that seal, open and sign: are they there, closed to others, and do they fit together?"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from tokenferry.configuration import Configuration
from tokenferry.sealing import Recipient, Signer, UnusableKey
from tokenferry_worker.doctor import results, rights
from tokenferry_worker.doctor.verdicts import Check, failed, ok, refused, warning
from tokenferry_worker.keys.contents import ContentMarks
from tokenferry_worker.keys.identities import Signers, load_identities
from tokenferry_worker.keys.state_keys import StateKeys
from tokenferry_worker.wiring import Role

MAKE = "make them with `tokenferry keys generate --out DIR`"
COPY = "copy its public key from the signers folder of `tokenferry keys generate` into this one"


def examine(configuration: Configuration, role: Role) -> Iterator[Check]:
    """Check the keys of a worker of *role*. It needs no recipient, but one that is there must fit."""
    signers, check = _signers(configuration.path(configuration.keys.signers))
    yield check
    yield from _folder(configuration.path(configuration.keys.signers), 0o022, "can add a signer")
    yield from results.examine(configuration)
    yield from _folder(configuration.path(configuration.keys.result_signers), 0o022, "can add a signer of results")
    yield from rights.examine(configuration)
    yield _state(configuration)
    if role == "attach":
        return
    identities = configuration.path(configuration.keys.identities)
    yield from _folder(identities, 0o077, "can see into it")
    yield from _ring(identities, configuration.path(configuration.keys.recipient))
    yield _content(configuration.path(configuration.keys.content_key))
    worker, producer = configuration.keys.worker_signing_key, configuration.keys.producer_signing_key
    if role != "onboard":
        yield from _own("keys worker", configuration.path(worker), signers)
    if configuration.path(producer).exists():
        yield from _own("keys producer", configuration.path(producer), signers)


def examine_producer(configuration: Configuration) -> Iterator[Check]:
    """What seals and signs. A producer needs no key that opens, and should have none."""
    recipient = configuration.path(configuration.keys.recipient)
    try:
        yield ok("keys recipient", str(recipient), f"seals to {Recipient.load(recipient).key_id}")
    except UnusableKey as error:
        yield refused("keys recipient", str(recipient), error, MAKE)
    producer = configuration.path(configuration.keys.producer_signing_key)
    try:
        signer = Signer.load(producer)
    except UnusableKey as error:
        yield refused("keys producer", str(producer), error, MAKE)
    else:
        says = f"signs as {signer.signer_id}; the workers need its public key among their signers"
        yield ok("keys producer", str(producer), says)
    identities = configuration.path(configuration.keys.identities)
    if any(identities.glob("*.pem")):
        says = "holds keys that open requests; a machine that only sends should not have them"
        yield warning("keys identities", str(identities), says, "move them to the workers' machines")


def _signers(folder: Path) -> tuple[Signers | None, Check]:
    try:
        signers = Signers.load(folder)
    except UnusableKey as error:
        return None, refused("keys signers", str(folder), error, MAKE)
    count = len(list(folder.glob("*.pem")))
    return signers, ok("keys signers", str(folder), f"{count} key{'' if count == 1 else 's'} whose signature counts")


def _ring(folder: Path, recipient: Path) -> Iterator[Check]:
    try:
        ring = load_identities(folder)
    except UnusableKey as error:
        yield refused("keys identities", str(folder), error, MAKE)
        ring = {}
    else:
        yield ok("keys identities", str(folder), f"opens what is sealed to {', '.join(sorted(ring))}")
    if not recipient.exists():
        yield ok("keys recipient", str(recipient), "is not on this machine; only producers need it")
        return
    try:
        seals_to = Recipient.load(recipient).key_id
    except UnusableKey as error:
        yield refused("keys recipient", str(recipient), error, MAKE)
        return
    if seals_to in ring:
        yield ok("keys recipient", str(recipient), f"is {seals_to}, which can be opened here")
    elif ring:
        says = f"is {seals_to}, and no identity here opens what is sealed to it"
        yield failed(
            "keys recipient", str(recipient), says, f"put {seals_to}.pem into {folder}, or replace the recipient"
        )


def _state(configuration: Configuration) -> Check:
    path = configuration.path(configuration.keys.state_key)
    try:
        keys = StateKeys.load(configuration)
    except UnusableKey as error:
        return refused("keys state", str(path), error, results.MAKE)
    if keys.current is None:
        says = "is missing: whoever can write to the store can change outcomes"
        return warning("keys state", str(path), says, results.MAKE)
    earlier = f", and verifies {len(keys.earlier)} earlier" if keys.earlier else ""
    return ok("keys state", str(path), f"tags what workers write to the store as {keys.current.key_id}{earlier}")


def _content(path: Path) -> Check:
    try:
        marks = ContentMarks.load(path)
    except UnusableKey as error:
        return refused("keys content", str(path), error, results.MAKE)
    if marks.key is None:
        says = "is missing: another content under a known id counts as the same"
        return warning("keys content", str(path), says, results.MAKE)
    return ok("keys content", str(path), "tells the same content from another")


def _own(name: str, path: Path, signers: Signers | None) -> Iterator[Check]:
    try:
        signer = Signer.load(path)
    except UnusableKey as error:
        yield refused(name, str(path), error, MAKE)
        return
    if signers is None:
        return  # reported already
    trial = b"tokenferry doctor"
    if signers.verify(signer.signer_id, signer.sign(trial), trial):
        yield ok(name, str(path), f"signs as {signer.signer_id}, which is among the signers")
    else:
        says = f"signs as {signer.signer_id}, which is not among the signers: what it signs is refused"
        yield failed(name, str(path), says, COPY)


def _folder(path: Path, forbidden: int, harm: str) -> Iterator[Check]:
    """Check the folder: an open one lets others replace files. The mode of private files is checked elsewhere."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return  # reported already
    if mode & forbidden:
        do = f"run `chmod {'700' if forbidden == 0o077 else 'go-w'} {path}`"
        yield warning("keys folder", str(path), f"has mode {mode:04o}: somebody else {harm}", do)
