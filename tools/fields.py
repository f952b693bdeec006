"""Compare the fields that are known here with those of the pinned SDK: an update shows every new one.

    make fields          # say what differs; end with 1 if anything does
    make fields WRITE=1  # write the emulator's tables of parameters anew; then say what still differs

Two lists come from the SDK's types: the form keys of the six requests in `tokenferry.contract`, and the tables of the
emulator in `emulator/tokenferry_emulator/allowed`. Fields of the contract are written by hand: each needs a shape.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ForwardRef, Literal, NotRequired, Required, Union, get_args, get_origin

from pydantic import BaseModel

from tokenferry.contract.requests import REQUESTS

TABLES = Path(__file__).parents[1] / "emulator" / "tokenferry_emulator" / "allowed"
SDK = {
    "accounts": "_account_create_params.AccountCreateParams",
    "accounts_update": "_account_update_params.AccountUpdateParams",
    "charges": "_charge_create_params.ChargeCreateParams",
    "customers": "_customer_create_params.CustomerCreateParams",
    "customers_sources": "_customer_payment_source_create_params.CustomerPaymentSourceCreateParams",
    "customers_update": "_customer_update_params.CustomerUpdateParams",
    "external_accounts": "_account_external_account_create_params.AccountExternalAccountCreateParams",
    "payment_intents": "_payment_intent_create_params.PaymentIntentCreateParams",
    "payment_intents_confirm": "_payment_intent_confirm_params.PaymentIntentConfirmParams",
    "payment_methods": "_payment_method_create_params.PaymentMethodCreateParams",
    "payment_methods_attach": "_payment_method_attach_params.PaymentMethodAttachParams",
    "persons": "_account_person_create_params.AccountPersonCreateParams",
    "persons_update": "_account_person_update_params.AccountPersonUpdateParams",
    "sources": "_source_create_params.SourceCreateParams",
    "tokens": "_token_create_params.TokenCreateParams",
    "topups": "_topup_create_params.TopupCreateParams",
}
"""The tables that are written from a type of the SDK. `list` and `retrieve` are ours."""
TRANSPORT = frozenset(
    {"api_key", "stripe_version", "stripe_account", "stripe_context", "idempotency_key", "max_network_retries"}
    | {"content_type", "headers"}
)
"""Options of the SDK's call, which are in the same types and are no parameters."""
_CARD = {
    "payment_method_data[card]": "hash",
    **{f"payment_method_data[card][{name}]": "string" for name in ("cvc", "exp_month", "exp_year", "number", "token")},
    "payment_method_data[card][networks]": "hash",
    "payment_method_data[card][networks][preferred]": "cartes_bancaires|mastercard|visa",
    "payment_method_data[type]": "card",
}
OURS: Mapping[str, Mapping[str, str]] = {
    # Legacy names, seen in recorded traffic.
    "accounts": {"bank_account": "string"},
    "accounts_update": {"bank_account": "string"},
    "customers": {"card": "string"},
    "customers_update": {"card": "string"},
    "tokens": {"bank_account": "hash|string", "bank_account[name]": "string"},
    # A card token stands in them, which the SDK no longer types.
    "payment_intents": _CARD,
    "payment_intents_confirm": _CARD,
}
"""What the emulator takes besides, by table and parameter."""
READ_AS_TEXT = frozenset({"exp_month", "exp_year"})
"""Numbers that the emulator reads itself, with a card error for a wrong one."""
LEFT_OUT = {"expand[]": "a token has nothing to expand, and its answer is reduced to a result anyway"}
"""Form keys of the SDK that no request has, each with the reason."""
ADDED = {"bank_account": "the id of a saved bank account, cloned with `customer`; documented, but typed as a hash only"}
"""Form keys of ours that the SDK does not have, each with the reason."""


# -- the SDK's types ---------------------------------------------------------------------------------------------------


class Parameter:
    """One parameter, as the SDK types it."""

    def __init__(self) -> None:
        self.words: set[str] = set()
        self.kinds: set[str] = set()
        self.children: dict[str, Parameter] = {}

    def read(self, annotation: Any, module: types.ModuleType, without: frozenset[str] = frozenset()) -> Parameter:
        """Add what *annotation* allows. Names in *without* are skipped on the first level only."""
        annotation = resolved(annotation, module)
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin in (NotRequired, Required, Union, types.UnionType):
            for argument in arguments:
                self.read(argument, module)
        elif origin is Literal:
            self.words.update(arguments)
        elif origin is list:
            self.kinds.add("list")
            for name, child in Parameter().read(arguments[0], module).children.items():
                self.children[name] = child
        elif is_typed_dict(annotation):
            self.kinds.add("hash")
            for name, inner in annotation.__annotations__.items():
                if name not in without:
                    self.children.setdefault(name, Parameter()).read(inner, module)
        elif origin is dict:
            self.kinds.add("map")
        elif annotation in (str, int, float, bool):
            self.kinds.add({str: "string", int: "integer", float: "number", bool: "boolean"}[annotation])
        return self

    def add(self, path: str, kind: str) -> None:
        """Take one more parameter, or allow one that is there more: `add("bank_account[name]", "string")`."""
        *above, last = path.replace("]", "").split("[")
        place = self
        for name in above:
            place = place.children[name]
        child = place.children.setdefault(last, Parameter())
        if child.words or ("|" in kind and kind != "hash|string"):
            child.words.update(kind.split("|"))
        else:
            child.kinds.update(kind.split("|"))

    def spelled(self, name: str) -> str:
        """The word of a table: see `parameters.py` of the emulator."""
        if name in READ_AS_TEXT:
            return "string"
        if self.words - {""}:
            return "|".join(sorted(self.words)) if self.kinds <= {"string"} else "string"
        if {"hash", "string"} <= self.kinds:
            return "hash|string"
        order = ("list", "map", "hash", "number", "integer", "boolean", "string")
        kind = next((kind for kind in order if kind in self.kinds), None)
        return "unset" if kind is None else f"{kind}{'?' if self.words else ''}"

    def lines(self, depth: int = 0) -> Iterator[str]:
        for name, child in sorted(self.children.items()):
            yield f"{'  ' * depth}{name} {child.spelled(name)}"
            yield from child.lines(depth + 1)


def resolved(annotation: Any, module: types.ModuleType) -> Any:
    """The annotation without quotes: the SDK quotes whole unions, as "Literal['']|Dict[str, str]"."""
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    return eval(annotation, {"Mapping": Mapping, **vars(module)}) if isinstance(annotation, str) else annotation


def is_typed_dict(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, dict) and hasattr(annotation, "__total__")


def sdk_type(name: str) -> tuple[Any, types.ModuleType]:
    """A type of the SDK, named like "_token_create_params.TokenCreateParams", and its module."""
    module_name, class_name = name.split(".")
    module = importlib.import_module(f"stripe.params.{module_name}")
    return getattr(module, class_name), module


def sdk_paths(annotation: Any, path: str, module: types.ModuleType) -> Iterator[str]:
    """Every form key a type of the SDK can produce; lists end in [], free mappings in [*]."""
    annotation = resolved(annotation, module)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (NotRequired, Required, Union, types.UnionType):
        for argument in arguments:
            yield from sdk_paths(argument, path, module)
    elif origin is list:
        yield from sdk_paths(arguments[0], f"{path}[]", module)
    elif origin is dict:
        yield f"{path}[*]"
    elif is_typed_dict(annotation):
        for name, inner in annotation.__annotations__.items():
            if path or name not in TRANSPORT:
                yield from sdk_paths(inner, f"{path}[{name}]" if path else name, module)
    elif origin is not Mapping and "UntypedStripeObject" not in str(annotation):
        yield path


# -- ours --------------------------------------------------------------------------------------------------------------


def our_paths(annotation: Any, path: str) -> Iterator[str]:
    """Every form key an annotation of ours can produce, spelled like those of the SDK."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from our_paths(arguments[0], path)
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            if argument is not type(None):
                yield from our_paths(argument, path)
    elif origin is tuple:
        yield from our_paths(arguments[0], f"{path}[]")
    elif origin is dict:
        yield f"{path}[*]"
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield from our_paths(field.annotation, f"{path}[{name}]")
    else:
        yield path


def request_paths() -> set[str]:
    """The form keys of the six requests."""
    paths: set[str] = set()
    for kind, model in REQUESTS.items():
        for name, field in model.model_fields.items():
            paths.update(our_paths(field.annotation, name if name in model.beside else f"{kind}[{name}]"))
    return paths


# -- what differs ------------------------------------------------------------------------------------------------------


def table(name: str) -> str:
    """A table of the emulator, from the SDK's type and `OURS`."""
    kind, module = sdk_type(SDK[name])
    root = Parameter().read(kind, module, TRANSPORT)
    for path, word in OURS.get(name, {}).items():
        root.add(path, word)
    return "".join(f"{line}\n" for line in root.lines())


def table_differences(name: str, known: str) -> list[str]:
    """What the table *known* lacks or has too much, a line each, with the path of the parameter."""
    wanted, here = set(_paths(table(name))), set(_paths(known))
    return [
        *(f"emulator {name}: new {line}" for line in sorted(wanted - here)),
        *(f"emulator {name}: gone {line}" for line in sorted(here - wanted)),
    ]


def _paths(text: str) -> Iterator[str]:
    above: list[str] = []
    for line in text.splitlines():
        name, kind = line.split(maxsplit=1)
        del above[(len(line) - len(line.lstrip())) // 2 :]
        above.append(name)
        yield f"{above[0]}{''.join(f'[{part}]' for part in above[1:])} {kind}"


def request_differences(theirs: set[str]) -> list[str]:
    """What the requests lack or have too much, besides what is so on purpose."""
    ours = request_paths()
    return [
        *(f"contract: new {path}" for path in sorted(theirs - ours - LEFT_OUT.keys())),
        *(f"contract: gone {path}" for path in sorted(ours - theirs - ADDED.keys())),
    ]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the emulator's tables")
    if parser.parse_args(arguments).write:
        for name in SDK:
            (TABLES / f"{name}.txt").write_text(table(name))
    kind, module = sdk_type(SDK["tokens"])
    found = request_differences(set(sdk_paths(kind, "", module)))
    for name in SDK:
        found += table_differences(name, (TABLES / f"{name}.txt").read_text())
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
