"""What is known of the provider's fields is what its pinned SDK knows, and a new field is noticed."""

from __future__ import annotations

import types
from typing import Literal, NotRequired, TypedDict

import pytest
from tools import fields


def test_nothing_differs_from_the_pinned_sdk(capsys: pytest.CaptureFixture[str]) -> None:
    assert fields.main([]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", fields.SDK)
def test_a_parameter_that_a_table_lacks_is_named(name: str) -> None:
    *most, last = fields.table(name).splitlines()
    (new,) = fields.table_differences(name, "\n".join(most))
    assert new.startswith(f"emulator {name}: new ")
    assert new.endswith(last.split()[1])
    (gone,) = fields.table_differences(name, fields.table(name) + "pin string\n")
    assert gone == f"emulator {name}: gone pin string"


def test_a_form_key_that_no_request_has_is_named() -> None:
    ours = fields.request_paths() - fields.ADDED.keys()
    assert fields.request_differences(ours | {"card[pin]"}) == ["contract: new card[pin]"]
    assert fields.request_differences(ours - {"card[cvc]"}) == ["contract: gone card[cvc]"]


class Networks(TypedDict):
    preferred: NotRequired[Literal["visa", "mastercard"] | str]


class Card(TypedDict):
    api_key: NotRequired[str]
    exp_month: int
    limit: NotRequired[Literal[""] | int]
    networks: NotRequired[Networks]
    off_session: bool | Literal["one_off"]
    owner: Networks | str
    tags: list[str]
    unset: Literal[""]


def test_the_types_of_an_sdk_become_the_words_of_a_table() -> None:
    module = types.ModuleType("sdk")
    vars(module).update(globals())
    root = fields.Parameter().read(Card, module, fields.TRANSPORT)
    root.add("networks[other]", "string")
    root.add("networks[preferred]", "eftpos")
    assert list(root.lines()) == [
        "exp_month string",
        "limit integer?",
        "networks hash",
        "  other string",
        "  preferred eftpos|mastercard|visa",
        "off_session string",
        "owner hash|string",
        "  preferred mastercard|visa",
        "tags list",
        "unset unset",
    ]
    assert "networks[preferred]" in set(fields.sdk_paths(Card, "", module))
