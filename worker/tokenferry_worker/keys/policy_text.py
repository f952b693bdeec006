"""Writes the policy file: one entry after the other, and nothing else of the file changes."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenferry.key_ring import KeyRing
from tokenferry.sealing import Signer, UnusableKey
from tokenferry_worker.keys.identities import load_signer
from tokenferry_worker.keys.policy import LEGACY, Everything, Grant, Policy, Role, TargetGrant, everything

FIRST_LINES: Final = """\
# Who may ask for what, by the id of the key that signs: docs/security.md. `tokenferry signers` changes it.
# Workers read it again within a second.
"""


def newcomer(name: str, roles: tuple[Role, ...]) -> Grant:
    """Return what a new signer may: its *roles*, everywhere, for everything but the rights of their own."""
    is_worker = roles == ("worker",)
    return Grant(
        name=name,
        group=LEGACY,
        roles=roles,
        platforms=Everything,
        connected_accounts=Everything,
        reply_routes=Everything,
        targets=() if is_worker else (TargetGrant(to="*"),),
    )


@dataclass
class PolicyText:
    """The text of a policy file. Comments stay, but for those inside an entry that is changed."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> PolicyText:
        """Read the file.

        Raises `UnusableKey` where it is missing, or is no policy.
        """
        Policy.read(path)
        return cls(path.resolve(), path.read_text(encoding="utf-8"))

    @property
    def policy(self) -> Policy:
        """The policy that the text spells."""
        return Policy.parse(self.text, self.path)

    def put(self, signer_id: str, grant: Grant) -> None:
        """Write the entry of *signer_id*, in place of the one that is there.

        Raises `UnusableKey` where that one is in another form than this module writes.
        """
        wanted = {**self.policy.signers, signer_id: grant}
        lines = self.text.splitlines(keepends=True)
        begin, end = _place_of(signer_id, lines)
        before, after = "".join(lines[:begin]), "".join(lines[end:])
        parts = [part.strip("\n") for part in (before, _spelled(signer_id, grant), after)]
        text = "\n\n".join(part for part in parts if part) + "\n"
        try:
            same = Policy.parse(text, self.path).signers == wanted
        except UnusableKey:
            same = False
        if not same:
            raise UnusableKey(f"{self.path}: the entry of {signer_id} is in a form of its own; change it by hand")
        self.text = text

    def save(self) -> None:
        """Write another file, then rename it, so that a worker reads the old one or the new one."""
        mode = stat.S_IMODE(self.path.stat().st_mode) if self.path.exists() else 0o600
        draft = self.path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(self.text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)


def signers_in(folder: Path) -> Mapping[str, str]:
    """Return the key ids of the public keys in *folder*, each with the name of its file without the suffix.

    Raises `UnusableKey`.
    """
    paths = sorted(folder.glob("*.pem"))
    return KeyRing.of((path, (load_signer(path)[0], path.stem)) for path in paths)


def add_missing(out: Path, before: Collection[str]) -> bool:
    """Give every signer in the folder *out* an entry in its policy, and change none that is there.

    *before*: the signers of a folder that had no policy. They keep every right. Return whether the file was written.
    Raises `UnusableKey`.
    """
    path = out / "policy.toml"
    is_new = not path.exists()
    text = PolicyText(path, FIRST_LINES) if is_new else PolicyText.read(path)
    files = {name: out / f"{name}.pem" for name in ("producer", "worker")}
    own = {Signer.load(path).signer_id: name for name, path in files.items() if path.exists()}
    known = text.policy
    for signer_id, name in signers_in(out / "signers").items():
        if known.grant_of(signer_id) is not None:
            continue
        name = _unused(own.get(signer_id, name), text.policy)
        if is_new and signer_id in before:
            text.put(signer_id, everything(name=name))
        else:
            text.put(signer_id, newcomer(name, ("worker",) if own.get(signer_id) == "worker" else ("seal", "onboard")))
    changed = is_new or text.policy != known
    if changed:
        text.save()
    return changed


def summary(grant: Grant) -> str:
    """Return what a signer may, in one line.

    >>> summary(newcomer("shop", ("seal",)))
    'seal; platforms all; connected accounts all; reply routes all; targets all'
    """
    targets = ("all" if target.to == "*" else target.to for target in grant.targets)
    parts = [
        ", ".join(grant.roles) or "nothing",
        f"platforms {_listed(grant.platforms)}",
        f"connected accounts {_listed(grant.connected_accounts)}",
        f"reply routes {'of its group' if grant.reply_routes is None else _listed(grant.reply_routes)}",
    ]
    if grant.roles != ("worker",):  # that one orders whatever an opened request asks for
        parts.append(f"targets {_listed(tuple(dict.fromkeys(targets)))}")
    if grant.group != LEGACY:
        parts.append(f"group {grant.group}")
    if grant.rights:
        parts.append(f"rights {_listed(grant.rights)}")
    return "; ".join(parts if grant.roles else parts[:1])


def _listed(names: Collection[str]) -> str:
    return "all" if "*" in names else ", ".join(names) or "none"


def _unused(name: str, policy: Policy) -> str:
    """Return *name*, with a number where another signer has it."""
    taken = {grant.name for grant in policy.signers.values()}
    return next(each for each in (name, *(f"{name}-{number}" for number in range(2, 10_000))) if each not in taken)


def _place_of(signer_id: str, lines: list[str]) -> tuple[int, int]:
    """Return the first line of an entry and the one behind its last; the end of the text where there is none."""
    own = re.compile(rf"\s*\[\[?\s*signers\.\"?{re.escape(signer_id)}\"?[.\]\s]")
    tables = [number for number, line in enumerate(lines) if line.lstrip().startswith("[")]
    ours = [number for number in tables if own.match(lines[number])]
    if not ours:
        return len(lines), len(lines)
    begin = ours[0]
    end = next((number for number in tables if number > begin and number not in ours), len(lines))
    while end > begin + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1  # what stands above the next entry belongs to that one
    return begin, end


def _spelled(signer_id: str, grant: Grant) -> str:
    return "\n".join(_lines(signer_id, grant))


def _lines(signer_id: str, grant: Grant) -> Iterator[str]:
    yield f"[signers.{signer_id}]"
    for name, value in grant.model_dump(mode="json", exclude_none=True, exclude={"targets"}).items():
        yield f"{name} = {_value(value)}"
    for target in grant.targets:
        yield f"\n[[signers.{signer_id}.targets]]"
        for name, value in target.model_dump(mode="json", exclude_none=True, exclude_defaults=True).items():
            yield f"{name} = {_value(value)}"


def _value(value: Any) -> str:
    match value:
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            inside = ", ".join(f"{_value(name)} = {_value(each)}" for name, each in value.items())
            return f"{{ {inside} }}"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case _:
            return repr(value)
