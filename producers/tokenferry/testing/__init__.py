"""What you need to test your own code: published test data, a fake producer, and a whole service on this machine.

>>> from tokenferry.testing import FakeProducer, card
>>> producer = FakeProducer()
>>> producer.request(card()).token
'tok_fake_1'
>>> producer.sent[0].request.kind
'card'

See docs/testing-your-code.md. `local_service` needs `tokenferry[worker,emulator]`; the rest needs nothing more.
"""

from tokenferry.testing.data import DECLINES, account, bank_account, card, declined_card, id_number, person
from tokenferry.testing.fakes import FakeAsyncProducer, FakeProducer, usual_answer
from tokenferry.testing.local import LocalService, MissingExtra, local_service

__all__ = [
    "DECLINES",
    "FakeAsyncProducer",
    "FakeProducer",
    "LocalService",
    "MissingExtra",
    "account",
    "bank_account",
    "card",
    "declined_card",
    "id_number",
    "local_service",
    "person",
    "usual_answer",
]
