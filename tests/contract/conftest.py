"""The official SDK as a witness: which form keys its typed parameters know."""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Iterator
from typing import Any, ForwardRef, NotRequired, Required, Union, get_args, get_origin

import pytest

TRANSPORT = {"api_key", "stripe_version", "stripe_account", "stripe_context", "idempotency_key", "max_network_retries"}
TRANSPORT |= {"content_type", "headers"}


def is_typed_dict(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, dict) and hasattr(annotation, "__total__")


def sdk_paths(annotation: Any, path: str, module: types.ModuleType) -> Iterator[str]:
    """Every form key a TypedDict of the SDK can produce; lists end in [], free mappings in [*]."""
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        annotation = eval(annotation, vars(module))  # the SDK quotes whole unions: "Literal['']|Dict[str, str]"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (NotRequired, Required):
        yield from sdk_paths(arguments[0], path, module)
    elif origin in (Union, types.UnionType):
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
    elif "UntypedStripeObject" not in str(annotation):
        yield path


@pytest.fixture(scope="session")
def form_keys_of_the_sdk() -> Callable[[str], set[str]]:
    """All form keys of a TypedDict, named like "_token_create_params.TokenCreateParams"."""

    def keys(name: str) -> set[str]:
        module_name, class_name = name.split(".")
        module = importlib.import_module(f"stripe.params.{module_name}")
        return set(sdk_paths(getattr(module, class_name), "", module))

    return keys
