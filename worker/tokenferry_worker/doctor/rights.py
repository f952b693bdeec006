"""Checks the policy: who may ask for what, and does each entry have its key?"""

from __future__ import annotations

from collections.abc import Iterator

from tokenferry.configuration import Configuration
from tokenferry.contract.targets import TARGETS
from tokenferry.sealing import UnusableKey
from tokenferry_worker.doctor.verdicts import Check, ok, refused, warning
from tokenferry_worker.keys.policy import Grant, Policy
from tokenferry_worker.keys.policy_text import signers_in, summary

MAKE = "write one with `tokenferry keys generate --out DIR`"


def examine(configuration: Configuration) -> Iterator[Check]:
    """Say in one line for each signer what it may, then which entries and keys stand alone."""
    path, folder = configuration.path(configuration.keys.policy), configuration.path(configuration.keys.signers)
    if not path.exists():
        says = "is not there: every signer may do everything, until the store has seen a policy; then nobody"
        yield warning("keys policy", str(path), says, MAKE)
        return
    try:
        policy, keys = Policy.read(path), signers_in(folder)
    except UnusableKey as error:
        yield refused("keys policy", str(path), error, MAKE)
        return
    for signer_id, grant in policy.signers.items():
        says = f"{signer_id}: {summary(grant)}"
        if any(policy.grant_of(key) == grant for key in keys):
            yield ok("keys policy", grant.name, says)
        else:
            do = "add its public key to [keys] signers, or remove its entry"
            yield warning("keys policy", grant.name, f"{says}; but its key is not among the signers", do)
        yield from _old_targets(grant)
    for signer_id, name in keys.items():
        if policy.grant_of(signer_id) is None:
            do = f"run `tokenferry signers add {folder / name}.pem --name NAME --role seal`, or remove the file"
            yield warning("keys policy", f"{name}.pem", f"{signer_id} may nothing: the policy does not name it", do)


def _old_targets(grant: Grant) -> Iterator[Check]:
    """Warn of targets that this signer is granted by name, and that Stripe will remove."""
    for target in dict.fromkeys(each.to for each in grant.targets):
        if target in TARGETS and (text := TARGETS[target].warning) is not None:
            says, _, do = text.partition("; ")
            yield warning("keys targets", grant.name, says, do)
