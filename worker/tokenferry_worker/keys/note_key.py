"""The key of the hashes in notes about messages that are not kept (PCI DSS 3.5.1.1).

With it, two notes can be compared, and a message that somebody still has can be found again. Without it, the number in
a short message would be found by trying all of them.
"""

from __future__ import annotations

import hashlib
from typing import Final

from tokenferry.configuration import Configuration
from tokenferry.sealing import Signer

PURPOSE: Final = b"tokenferry/v2/note-key"
"""No message that is signed begins like this, so the signature below is never shown to anybody."""


def note_key(configuration: Configuration) -> bytes | None:
    """Return the key, derived from the first signing key that this worker has. None where it has none.

    Ed25519 signs the same text in the same way each time (RFC 8032, section 5.1.6), and nobody else can.

    Raises `UnusableKey` where a key file cannot be used.
    """
    keys = configuration.keys
    for path in map(configuration.path, (keys.result_signing_key, keys.worker_signing_key)):
        if path.exists():
            return hashlib.sha256(Signer.load(path).sign(PURPOSE)).digest()
    return None
