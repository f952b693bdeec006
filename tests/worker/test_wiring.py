"""What a worker of each role is given, and what it refuses to start without."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenferry.broker.embedded import Embedded
from tokenferry.configuration import Configuration, InvalidConfiguration, load
from tokenferry.contract.queues import ATTACH_TASK, ONBOARD_TASK, QUARANTINE, TOKENIZE_TASK
from tokenferry.sealing import UnusableKey
from tokenferry_worker import wiring
from tokenferry_worker.deliveries.settling import Settler
from tokenferry_worker.engine import app
from tokenferry_worker.errors import Forgotten
from tokenferry_worker.keys.result_signing import ResultSigner
from tokenferry_worker.outcomes import Quarantined

from .standins import FlakyPublisher, MemoryCircuits, quarantine_of, stores_clock

CANARY = "canary0000000000"

Configure = Callable[..., Configuration]


@pytest.fixture
def configure(tmp_path: Path, key_folder: Any, environment: dict[str, str]) -> Configure:
    """A configuration with one platform, whose secret key is where *secret_key* says."""
    environment["MAIN_KEY"] = f"  sk_test_{CANARY}\n"
    environment["MAIN_PUBLISHABLE_KEY"] = f"pk_test_{CANARY}"

    def with_(
        secret_key: str | None = '{ env = "MAIN_KEY" }',
        *,
        store: str = "redis://127.0.0.1:1",
        identities: Path | None = None,
        worker: Path | None = None,
    ) -> Configuration:
        path = tmp_path / "tokenferry.toml"
        path.write_text(
            f"""
            [broker]
            url = "redis://127.0.0.1:1"
            [store]
            url = "{store}"
            prefix = "test-wiring"
            [keys]
            identities = "{identities or key_folder.identities}"
            worker_signing_key = "{worker or key_folder.worker}"
            signers = "{key_folder.signers}"
            [platforms.main]
            base_url = "http://127.0.0.1:1"
            publishable_key = {{ env = "MAIN_PUBLISHABLE_KEY" }}
            {f"secret_key = {secret_key}" if secret_key else ""}
            """
        )
        return load(path)

    return with_


@pytest.mark.parametrize(
    ("role", "queues", "tasks"),
    [
        ("tokenize", ["tokenize.realtime.main", "tokenize.bulk.main"], {TOKENIZE_TASK}),
        ("attach", ["attach.realtime.main", "attach.bulk.main"], {ATTACH_TASK}),
        ("onboard", ["onboard.main"], {ONBOARD_TASK}),
        (
            "all",
            [
                "tokenize.realtime.main",
                "tokenize.bulk.main",
                "attach.realtime.main",
                "attach.bulk.main",
                "onboard.main",
            ],
            {TOKENIZE_TASK, ATTACH_TASK, ONBOARD_TASK},
        ),
    ],
)
def test_a_role_reads_its_queues_and_knows_its_own_tasks_only(
    configure: Configure, role: wiring.Role, queues: list[str], tasks: set[str]
) -> None:
    """Another role's message on its queue is unknown, and set aside; known but unhandled, it would always come back."""
    celery = app.build(configure(), role)
    assert [queue.name for queue in celery.conf.task_queues] == queues
    assert set(celery.tasks) == tasks, "and none of Celery's own"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("role", "tasks"), [("tokenize", {TOKENIZE_TASK}), ("attach", {ATTACH_TASK}), ("onboard", {ONBOARD_TASK})]
)
async def test_a_role_opens_the_handlers_of_its_tasks(
    configure: Configure, valkey: Embedded, role: wiring.Role, tasks: set[str]
) -> None:
    configuration = configure(store=valkey.database(7).redis_url)
    async with wiring.handlers(configuration, role, FlakyPublisher()) as handlers:
        assert set(handlers) == tasks


@pytest.mark.anyio
async def test_a_delivery_that_is_no_envelope_goes_to_quarantine_through_the_whole_wiring(
    configure: Configure, valkey: Embedded
) -> None:
    publisher = FlakyPublisher()
    configuration = configure(store=valkey.database(7).redis_url)
    async with wiring.handlers(configuration, "all", publisher) as handlers:
        for handler in handlers.values():
            await handler("neither one nor the other", "")
    assert [message.queue for message in publisher.published] == ["quarantine"] * 3


def test_an_attach_worker_needs_no_private_key_of_the_envelope(configure: Configure, tmp_path: Path) -> None:
    configuration = configure(identities=tmp_path / "none", worker=tmp_path / "none.pem")
    wiring.check(configuration, "attach")
    for role in ("tokenize", "onboard", "all"):
        with pytest.raises(UnusableKey):
            wiring.check(configuration, role)  # type: ignore[arg-type]


def test_a_key_from_the_environment_loses_only_the_space_around_it(configure: Configure) -> None:
    configuration = configure()
    keys = wiring.api_keys(configuration, "main", configuration.platforms["main"])
    assert (keys.secret, keys.publishable) == (f"sk_test_{CANARY}", f"pk_test_{CANARY}")
    assert CANARY not in repr(keys)


def test_a_key_from_a_file_must_be_closed_to_others(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"sk_test_{CANARY}\n")
    (tmp_path / "key").chmod(0o600)
    configuration = configure('{ file = "key" }')
    assert wiring.api_keys(configuration, "main", configuration.platforms["main"]).secret == f"sk_test_{CANARY}"
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(InvalidConfiguration, match=r"secret_key: .*readable by others") as caught:
        wiring.check(configuration, "attach")
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("secret_key", "words"),
    [
        (None, r"\[platforms.main\] secret_key is missing"),
        ('{ env = "NOT_SET" }', "the environment variable NOT_SET is not set"),
        ('{ file = "absent" }', r"absent: the secret_key cannot be read .*write Stripe's key into it"),
        ('{ env = "MAIN_PUBLISHABLE_KEY" }', "looks like a publishable key"),
    ],
)
def test_a_key_that_is_not_there_is_missed_by_name(configure: Configure, secret_key: str | None, words: str) -> None:
    with pytest.raises(InvalidConfiguration, match=words) as caught:
        wiring.check(configure(secret_key), "attach")
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.anyio
async def test_a_delivery_whose_entry_the_store_has_lost_begins_again() -> None:
    said = Quarantined("not an envelope")
    answers: list[Exception | Quarantined] = [Forgotten(), Forgotten(), said]
    publisher = FlakyPublisher()

    async def handle(body: str, queue: str | None) -> Quarantined:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def known() -> None: ...

    settler = Settler(publisher, MemoryCircuits(), stores_clock, ResultSigner(None), quarantine_of(publisher))
    await wiring._delivery(handle, settler, known)("body", "")
    assert answers == []
    assert [message.queue for message in publisher.published] == [QUARANTINE]


def test_without_a_platform_there_is_nothing_to_do(tmp_path: Path) -> None:
    (tmp_path / "tokenferry.toml").write_text("")
    with pytest.raises(InvalidConfiguration, match="no platform is configured"):
        wiring.check(load(tmp_path / "tokenferry.toml"), "all")
