"""Signing results: a reader believes what a worker signed for its route, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from tokenferry.broker.outgoing import Outgoing
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import results_queue
from tokenferry.contract.result_signature import SIGNATURE_HEADER, ResultSignature, header_value, signed_bytes
from tokenferry.sealing import Signer, id_in


@dataclass(frozen=True)
class ResultSigner:
    """Makes the messages of reply routes, and signs them."""

    signer: Signer | None
    """None: there is no `[keys] result_signing_key`, as before results were signed. Then they are not."""

    @classmethod
    def load(cls, configuration: Configuration) -> ResultSigner:
        """Read `[keys] result_signing_key`, if it is there.

        Raises `UnusableKey` when it cannot be used.
        """
        path = configuration.path(configuration.keys.result_signing_key)
        return cls(Signer.load(path) if path.exists() else None)

    def message(self, route: str, body: str) -> Outgoing:
        """Return the message for *route*. *body*: a result or a step of an onboarding, as the text that is signed."""
        queue = results_queue(route)
        return Outgoing(queue, body, self._headers(queue, body))

    def _headers(self, queue: str, body: str) -> dict[str, str]:
        if self.signer is None:
            return {}
        signature = self.signer.sign(signed_bytes(queue, body.encode()))
        # Readers of the first version that verifies know keys by 16 digits.
        return {SIGNATURE_HEADER: header_value(ResultSignature(id_in(1, self.signer.signer_id), signature))}
