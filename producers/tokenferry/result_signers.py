"""Whose results a reader believes: the public keys of `[keys] result_signers`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tokenferry.configuration import Configuration
from tokenferry.contract.result_signature import SIGNATURE_HEADER, read_header_value, signed_bytes
from tokenferry.key_ring import KeyRing
from tokenferry.sealing import UnusableKey, key_id, read_key_file

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 1.0
"""Seconds between two looks whether a key was added to the folder or removed from it."""
CURE: Final = (
    "Copy the folder result-signers here from where `tokenferry keys generate` wrote it. Where it wrote none, run "
    "`tokenferry keys generate --if-missing --out DIR` there: it adds what is missing. As long as workers of the "
    "version before run, write envelope = 1 below [producer] in tokenferry.toml instead"
)

State = Sequence[tuple[str, int, int]]
"""Name, time and size of each key file: one of them changes when a key is added or replaced."""


class ResultSigners:
    """Verifies results with the keys of a folder. For one thread."""

    def __init__(self, folder: Path, *, unsigned: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """*unsigned*: believe results without a signature, too. Then the folder may be empty or missing.

        Raises `UnusableKey`.
        """
        self.unsigned = unsigned
        self._folder = folder
        self._clock = clock
        self._looked_at = clock()
        self._state = _state(folder)
        self._keys = {} if unsigned and not self._state else load_result_signers(folder)

    @classmethod
    def load(cls, configuration: Configuration) -> ResultSigners:
        """The signers of *configuration*. Unsigned results are believed while `[producer] envelope = 1` stands there.

        Raises `UnusableKey`.
        """
        folder = configuration.path(configuration.keys.result_signers)
        return cls(folder, unsigned=configuration.producer.envelope == 1)

    def warn(self) -> None:
        """Say in one line, at the start of a reader, that unsigned results are believed."""
        if self.unsigned:
            also = "" if self._keys else f", and none is verified, because {self._folder} holds no key"
            log.warning(
                "results: [producer] envelope = 1, so results without a signature are believed%s. Take the line away "
                "when every worker signs its results",
                also,
            )

    def verify(self, queue: str, body: bytes, headers: Mapping[str, str]) -> bool:
        """True if a known worker signed exactly *body* for *queue*. *headers*: as `only_signature` returns them."""
        value = headers.get(SIGNATURE_HEADER)
        if value is None:
            return self.unsigned
        signed = read_header_value(value)
        if signed is None:
            return False
        self._look_again(signed.key_id)
        if not self._keys:
            return True  # a new worker's, and nothing here to verify it with: believed as an unsigned one is
        key = self._keys.get(signed.key_id)
        if key is None:
            return False
        try:
            key.verify(signed.signature, signed_bytes(queue, body))
        except InvalidSignature:
            return False
        return True

    def _look_again(self, key_id: str) -> None:
        """Read the folder again if it has changed: at once for an unknown key, else once a second."""
        now = self._clock()
        if key_id in self._keys and now - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = now
        if (state := _state(self._folder)) == self._state:
            return
        self._state = state
        try:
            self._keys = load_result_signers(self._folder)
        except UnusableKey as error:
            log.warning("results: %s. Going on with the keys of before", error)
        else:
            log.warning("results: read %s again", self._folder)


def load_result_signers(folder: Path) -> Mapping[str, Ed25519PublicKey]:
    """Every `*.pem` of *folder* by key id.

    Raises `UnusableKey` when one cannot be used or there is none.
    """
    files = []
    for path in sorted(folder.glob("*.pem")):
        content = read_key_file(path, "public key of results", "copy it again")
        try:
            key = load_pem_public_key(content)
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise UnusableKey(f"{path}: is not an Ed25519 public key; copy it from `tokenferry keys generate`")
        files.append((path, (key_id(key.public_bytes_raw()), key)))
    if not files:
        raise UnusableKey(f"{folder}: holds no public key (*.pem), so no result can be verified. {CURE}")
    return KeyRing.of(files)


def _state(folder: Path) -> State:
    found = []
    for path in folder.glob("*.pem"):
        with suppress(OSError):
            status = path.stat()
            found.append((path.name, status.st_mtime_ns, status.st_size))
    return sorted(found)
