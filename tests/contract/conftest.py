"""The official SDK as a witness: which form keys its typed parameters know."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tools.fields import sdk_paths, sdk_type


@pytest.fixture(scope="session")
def form_keys_of_the_sdk() -> Callable[[str], set[str]]:
    """All form keys of a TypedDict, named like "_token_create_params.TokenCreateParams"."""

    def keys(name: str) -> set[str]:
        kind, module = sdk_type(name)
        return set(sdk_paths(kind, "", module))

    return keys
