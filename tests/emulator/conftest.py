"""One real emulator for the session, more on demand, and the app in this process for everything else."""

from collections.abc import Callable, Iterator

import httpx
import pytest

from tokenferry_emulator import EmulatorState, Settings
from tokenferry_emulator.testing import EmulatorProcess, Provider


@pytest.fixture(scope="session")
def emulator() -> Iterator[EmulatorProcess]:
    process = EmulatorProcess("--connected-account", "acct_given")
    yield process
    assert process.stop() == 0


@pytest.fixture
def fresh(emulator: EmulatorProcess) -> Iterator[httpx.Client]:
    """The session's emulator, emptied, behind an HTTP client with a key."""
    headers = {"authorization": "Bearer sk_test_alpha"}
    with httpx.Client(base_url=emulator.url, headers=headers, timeout=10) as client:
        client.post("/_reset")
        yield client
        client.delete("/_faults")


@pytest.fixture
def provider() -> Provider:
    return Provider(EmulatorState())


@pytest.fixture
def provider_with() -> Callable[[Settings], Provider]:
    return lambda settings: Provider(EmulatorState(settings))
