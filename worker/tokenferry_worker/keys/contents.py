"""Tells the same content from another without keeping any of it (docs/formats.md, "The same id with other content").

A mark is an HMAC, so who reads the store learns nothing from it. Group and id are part of it: the same card under two
ids has two marks.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_plus

from tokenferry.contract.onboarding import Onboarding
from tokenferry.contract.plaintext import DOCUMENT, FORM, Plaintext
from tokenferry.contract.targets import digest
from tokenferry.sealing import UnusableKey, read_private_key_file

_KEY: Final = re.compile(r"[0-9a-f]{64}")
_BEFORE_A_FIELD: Final = re.compile(r"(?=[&;])")
"""Some servers split a form at both."""


@dataclass(frozen=True)
class ContentMarks:
    """Marks contents under `keys/content.key`. Without that file it marks none, and all contents count as the same."""

    key: bytes | None = field(default=None, repr=False)

    @classmethod
    def load(cls, path: Path) -> ContentMarks:
        """Read the key, if its file is there.

        Raises `UnusableKey`.
        """
        if not path.exists():
            return cls()
        text = read_private_key_file(path, "content key").decode("ascii", "replace").strip()
        if not _KEY.fullmatch(text):
            raise UnusableKey(
                f"{path}: is not 32 bytes in hex; move it away, then `tokenferry keys generate --if-missing --out DIR`"
            )
        return cls(bytes.fromhex(text))

    def of_request(self, name: str, content: Plaintext) -> str:
        """Return the mark of a request. *name*: its group and id. Its plan belongs to it, its verification code not."""
        plan = digest(content.attach) if content.attach is not None else ""
        return self._mark(name, FORM, plan, _without_cvc(content.form))

    def of_document(self, name: str, document: Onboarding) -> str:
        """Return the mark of an onboarding. Whether its steps are reported does not belong to it."""
        given = document.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude={"progress"})
        return self._mark(name, DOCUMENT, "", json.dumps(_no_code(given), sort_keys=True))

    def can_tell(self, mark: str) -> bool:
        """True if *mark* was made under the key that is here."""
        return self.key is not None and mark.partition(".")[0] == self._key_id()

    def _mark(self, *parts: str) -> str:
        """Return the key's id and the HMAC. No part but the last can hold a line feed."""
        if self.key is None:
            return ""
        tag = hmac.digest(self.key, "\n".join(parts).encode(), "sha256")
        return f"{self._key_id()}.{tag.hex()}"

    def _key_id(self) -> str:
        assert self.key is not None
        return "k" + hashlib.sha256(b"tokenferry content key\0" + self.key).hexdigest()[:16]


UNMARKED: Final = ContentMarks()
"""Where there is no key."""


def differ(one: str, other: str) -> bool:
    """True if two marks are of different contents. What was marked under another key, or not at all, is the same.

    >>> differ("k1.aa", "k1.bb"), differ("k1.aa", "k2.bb"), differ("", "k1.aa")
    (True, False, False)
    """
    return one != other and one.partition(".")[0] == other.partition(".")[0] != ""


def _without_cvc(form: str) -> str:
    fields = _BEFORE_A_FIELD.split(form)
    return "".join(each for each in fields if "cvc" not in unquote_plus(each.partition("=")[0]).lower()).lstrip("&;")


def _no_code(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _no_code(each) for name, each in value.items() if "cvc" not in name.lower()}
    return [_no_code(each) for each in value] if isinstance(value, list) else value
