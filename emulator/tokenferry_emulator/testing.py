"""The emulator as tests meet it: a real process on a free port, or the app in this process without a socket."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

from tokenferry_emulator.app import create_app
from tokenferry_emulator.world import EmulatorState

CARD = {"card[number]": "4242424242424242", "card[exp_month]": "12", "card[exp_year]": "2044", "card[cvc]": "123"}
DEBIT = {**CARD, "card[number]": "4000056655665556", "card[currency]": "usd"}
BANK = {
    "bank_account[country]": "US",
    "bank_account[currency]": "usd",
    "bank_account[account_number]": "000123456789",
    "bank_account[routing_number]": "110000000",
    "bank_account[account_holder_name]": "Jenny Rosen",
    "bank_account[account_holder_type]": "individual",
}

Form = Mapping[str, str] | None


class EmulatorProcess:
    """`python -m tokenferry_emulator --port 0` and its address; stops at the end of a `with`."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tokenferry_emulator", "--port", "0", *options],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise ChildProcessError(f"the emulator did not start: exit code {self.process.wait(10)}")
        self.url = line.split()[-1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; the exit code."""
        self.process.send_signal(number)
        with self.process:
            return self.process.wait(10)

    def __enter__(self) -> EmulatorProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(frozen=True)
class HttpAnswer:
    """What came back; header names are in lower case."""

    status_code: int
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.content)
        return body


class Provider:
    """The app in this process, spoken to over ASGI with one secret key."""

    def __init__(self, world: EmulatorState, key: str = "sk_test_alpha") -> None:
        self.world = world
        self.key = key
        self._app = create_app(world)

    async def asked(self, method: str, path: str, form: Form = None, **headers: str) -> HttpAnswer:
        """One call; header names with underscores, as `idempotency_key`."""
        path, _, query = path.partition("?")
        sent = {"authorization": f"Bearer {self.key}", **{name.replace("_", "-"): headers[name] for name in headers}}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in sent.items()],
            "client": ("127.0.0.1", 1),
        }
        sent_back: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": urlencode(form or {}).encode()}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent_back.append(message)

        await self._app(scope, receive, send)
        content = b"".join(message.get("body", b"") for message in sent_back[1:])
        return HttpAnswer(
            sent_back[0]["status"], {k.decode(): v.decode("latin-1") for k, v in sent_back[0]["headers"]}, content
        )

    def ask(self, method: str, path: str, form: Form = None, **headers: str) -> HttpAnswer:
        return asyncio.run(self.asked(method, path, form, **headers))

    def at_once(self, calls: Iterable[tuple[str, Form, Mapping[str, str]]]) -> list[HttpAnswer]:
        """POST all of them at the same time: path, form and headers of each."""

        async def gathered() -> list[HttpAnswer]:
            return await asyncio.gather(*(self.asked("POST", path, form, **headers) for path, form, headers in calls))

        return asyncio.run(gathered())

    def post(self, path: str, form: Form = None, **headers: str) -> HttpAnswer:
        return self.ask("POST", path, form, **headers)

    def get(self, path: str, **headers: str) -> HttpAnswer:
        return self.ask("GET", path, None, **headers)

    def made(self, path: str, form: Form = None, **headers: str) -> dict[str, Any]:
        """The body of a POST that must succeed."""
        answer = self.post(path, form, **headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, path: str, form: Form = None, **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and error of a POST that must fail."""
        answer = self.post(path, form, **headers)
        assert answer.status_code >= 400, answer.text
        error: dict[str, Any] = answer.json()["error"]
        return answer.status_code, error

    def token(self, form: Form = None, **headers: str) -> str:
        """Return the id of a new token, by default of a good card."""
        return str(self.made("/v1/tokens", form or CARD, **headers)["id"])

    def custom_account(self, form: Form = None) -> str:
        """The id of a new connected account that may have external accounts."""
        return str(self.made("/v1/accounts", {"type": "custom", **(form or {})})["id"])

    def ledger(self) -> dict[str, Any]:
        return self.get("/_ledger").json()
