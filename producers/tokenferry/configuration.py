"""`tokenferry.toml` and the environment: every setting of both halves, with its unit, default and reason.

Both halves read the same file. It holds no secret, only references to secrets (`{ env = "NAME" }` or
`{ file = "PATH" }`), so a producer may read all of it; nothing here can follow a reference to an endpoint key.

Environment variables override the file: `TOKENFERRY_BROKER__URL`, `TOKENFERRY_STORE__URL`, ... (two underscores
between section and setting). Relative paths count from the folder of the file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from tokenferry.addresses import EMBEDDED, checked, checked_endpoint
from tokenferry.contract.names import Name
from tokenferry.contract.targets import ENDPOINTS

Seconds = Annotated[float, Field(gt=0, le=86_400)]
PerSecond = Annotated[float, Field(gt=0, le=100_000)]

PREFIX = "TOKENFERRY_"
"""What the names of our environment variables begin with."""
ENDPOINT_KEY = re.compile(r"[srp]k_(test|live)_[A-Za-z0-9]{10,}")
"""A key of the endpoint, which no name of a variable or file looks like."""


class InvalidConfiguration(ValueError):
    """A setting is missing, unknown or out of range. The text says which, where, and what to write instead."""


class Section(BaseModel):
    """One table of the file: frozen, closed, and silent about values (a URL may hold a password)."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class SecretReference(Section):
    """Where a secret is kept, never the secret: an environment variable or a file readable by its owner only."""

    env: str | None = None
    file: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_no_secret(cls, given: Any) -> Any:
        """A key in the place of its name would be quoted wherever the name is."""
        named = [str(name) for name in given.values()] if isinstance(given, Mapping) else []
        if not isinstance(given, Mapping | cls) or any(map(ENDPOINT_KEY.search, named)):
            raise ValueError('the key itself does not belong here; write { env = "NAME" } or { file = "PATH" }')
        return given

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError('write { env = "NAME" } or { file = "PATH" }')
        return self


class Broker(Section):
    """Where messages are put."""

    url: str = EMBEDDED
    """`embedded`, `redis://`, `rediss://`, `unix://`, `sentinel://`, `sentinels://` or `amqp://`, `amqps://`."""
    ca_file: Path | None = None
    """PEM file of the authority behind the server's certificate. Not set: those this machine trusts."""
    lease_seconds: Annotated[float, Field(ge=0.5, le=3600)] = 6.0
    """Redis and Valkey: a delivery whose worker stops renewing its lease this long is given to another one."""
    hold_seconds: Seconds = 1200.0
    """RabbitMQ: a delivery that has waited this long in a worker's hand is given back, and comes again.

    Well below the broker's `consumer_timeout` (30 minutes, unless it is told otherwise), which closes the channel.
    """
    publish_timeout: Seconds = 10.0
    """Seconds until a publish that nobody confirmed becomes an error."""
    max_waiting: Annotated[int, Field(ge=0)] = 1_000_000
    """Requests that may wait in one queue; more are refused with `BrokerFull`. 0: no limit.

    A million is 2.5 GB on Redis and 11 hours of work at 25 per second: beyond it a producer should hear of it.
    """

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        return checked(url, amqp=True)


class ProducerSettings(Section):
    """What producers and readers of results do, beside keys and broker."""

    envelope: Literal[1, 2] = 2
    """Version of the messages. 1 during an upgrade, while workers of the version before run: then unsigned results
    are believed, too."""


class OutboxSettings(Section):
    """Where accepted requests are kept until the broker, and then their requester, has them. Producers only."""

    path: Path | None = None
    """File of the outbox (SQLite, on a local disk). Not set: there is none, and `send` waits for the broker."""
    max_rows: Annotated[int, Field(ge=1)] = 200_000
    """Requests it holds before it takes no more: about 3 KB each."""
    max_megabytes: Annotated[int, Field(ge=1)] = 1024
    """The same, in megabytes of the file that are in use."""
    resend_after: Annotated[float, Field(ge=1, le=86_400)] = 600.0
    """Seconds after which a request without an outcome is sent again, where its route is read with this outbox."""
    keep_confirmed: Annotated[float, Field(ge=0, le=7 * 86_400)] = 3600.0
    """Seconds for which `outbox reconcile` can find a confirmed request whose route is not read with this outbox."""


class StoreSettings(Section):
    """Where workers keep journal, ledger and limiter: Redis or Valkey."""

    url: str = EMBEDDED
    ca_file: Path | None = None
    """As of the broker."""
    prefix: Name = "tokenferry"
    """Every key begins with it."""
    journal_days: Annotated[float, Field(gt=0, le=365)] = 7.0
    """How long an outcome is remembered: longer than any message can still be redelivered."""
    onboarding_days: Annotated[float, Field(gt=0, le=3650)] = 365.0
    """How long it is remembered what was made for an onboarding, after its last message. Ids only, about 1 KB each.

    Sent again later than that, the same reference is another account.
    """

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        return checked(url, amqp=False)


class KeySettings(Section):
    """Files of the envelope's keys, as `tokenferry keys generate --out DIR` writes them."""

    recipient: Path = Path("keys/recipient.pem")
    """Public key that producers seal to."""
    producer_signing_key: Path = Path("keys/producer.pem")
    """Private Ed25519 key that proves who sealed."""
    identities: Path = Path("keys/identities")
    """Folder of private keys that open. Tokenize workers only."""
    worker_signing_key: Path = Path("keys/worker.pem")
    """Private Ed25519 key with which a tokenize worker orders an attach."""
    signers: Path = Path("keys/signers")
    """Folder of public keys of every producer and worker whose signature counts."""
    result_signing_key: Path = Path("keys/result.pem")
    """Private Ed25519 key with which workers of every role sign results."""
    result_signers: Path = Path("keys/result-signers")
    """Folder of public keys of the workers whose results are believed. Readers of results only."""


class LimitSettings(Section):
    """Calls per second the account allows; what is not set is the documented default of the mode.

    Live: 100 in all, 25 per endpoint, 30 account creations. Test: 25, 25 and 5 (docs.stripe.com/rate-limits).
    """

    global_per_second: PerSecond | None = None
    endpoint_per_second: PerSecond | None = None
    account_creation_per_second: PerSecond | None = None
    connected_account_per_second: PerSecond | None = None
    """Calls for one connected account; not set: no budget of its own."""
    endpoints: dict[Name, PerSecond] = Field(default_factory=dict)
    """Endpoints that are allowed another rate than the rest: tokens, customers, payment_methods, accounts, ..."""
    in_flight: dict[Name, Annotated[int, Field(ge=1, le=10_000)]] = Field(default_factory=dict)
    """Calls of the whole fleet that may be under way at the same time: per endpoint by its name, or `global`.

    Not set: as many as the rate and the endpoint's latency make. Writes to one object are one at a time in any case.
    """
    reserved: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    """Share of every budget that is left to traffic outside this system."""
    burst: Annotated[int, Field(ge=1, le=100)] = 3
    """Calls that may follow each other at once after a pause; the last of them is kept for the realtime lane.

    Even pacing needs no more: what is over two only makes up for moments in which nobody was ready to call.
    """

    @field_validator("endpoints", "in_flight")
    @classmethod
    def _known(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        known = ENDPOINTS | ({"global"} if info.field_name == "in_flight" else set())
        if unknown := sorted(set(given) - known):
            raise ValueError(f"there is no endpoint {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        return given


class Platform(Section):
    """One account of the endpoint in one mode."""

    mode: Literal["test", "live"] = "test"
    base_url: str = "https://api.stripe.com"
    """The endpoint, without /v1. Plain http only to this machine, with test keys."""
    secret_key: SecretReference | None = None
    """Secret or restricted key. Workers only."""
    publishable_key: SecretReference | None = None
    """Needed in live mode for account and person tokens, which refuse a secret key."""
    limits: LimitSettings = LimitSettings()

    @field_validator("base_url")
    @classmethod
    def _is_an_endpoint(cls, url: str, info: ValidationInfo) -> str:
        return checked_endpoint(url, live=info.data.get("mode") == "live")

    @property
    def live(self) -> bool:
        """Whether real cards and real money are behind it."""
        return self.mode == "live"

    @property
    def global_per_second(self) -> float:
        """All calls together."""
        return self.limits.global_per_second or (100.0 if self.live else 25.0)

    def endpoint_per_second(self, endpoint: str) -> float:
        """Calls to one endpoint, `tokens` for instance."""
        return self.limits.endpoints.get(endpoint) or self.limits.endpoint_per_second or 25.0

    @property
    def account_creation_per_second(self) -> float:
        """`POST /v1/accounts`."""
        return self.limits.account_creation_per_second or (30.0 if self.live else 5.0)


class Worker(Section):
    """How a worker behaves."""

    concurrency: Annotated[int, Field(ge=1, le=2000)] = 100
    """Deliveries in flight per queue and process."""
    attempts: Annotated[int, Field(ge=1, le=50)] = 8
    """Calls for one request before it is given up on; waiting for a permit or a rate limit counts as none."""
    deliveries: Annotated[int, Field(ge=1, le=1000)] = 10
    """Hand-overs of one request before it is taken for poison."""
    dead_letter_days: Annotated[float, Field(gt=0, le=365)] = 14.0
    """How long dead letters and quarantined messages are kept for somebody to look into; then they are dropped."""
    read_timeout: Seconds = 80.0
    """Seconds without an answer. Connect writes were seen to hold the line 21 to 23 s before a lock time-out."""
    connect_timeout: Seconds = 10.0
    """Seconds until a connection to the endpoint must stand; after them the call counts as not made."""
    alone_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Share of every budget that one process uses while the store is away; times your processes, keep it below 1."""
    token_lifetime: Seconds = 600.0
    """Seconds after which an unspent token counts as too old: it is made anew, or reported as expired."""
    grace_seconds: Annotated[float, Field(ge=0, le=3600)] = 20.0
    """What is in hand when the worker stops gets so long to finish; the rest then goes back to the queue.

    Above the slowest usual call. Whoever stops the worker must wait ten seconds longer before killing it.
    """
    watchdog_seconds: Annotated[float, Field(ge=5, le=3600)] = 30.0
    """A process that hangs, or takes nothing although messages wait, is replaced after so long.

    At least twice `[broker] publish_timeout`: an ordinary wait for the broker must not look like a hang.
    """
    health: Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):\d{1,5}$")] | None = None
    """`HOST:PORT` for the probes /live and /ready (HTTP, no secrets). Not set: `tokenferry health` still answers."""


class Configuration(BaseSettings):
    """The whole file. Build it with `load`."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    data: Path = Path(".tokenferry")
    """Folder of the embedded server, and of the sockets by which `tokenferry health` finds workers."""
    broker: Broker = Broker()
    producer: ProducerSettings = ProducerSettings()
    outbox: OutboxSettings = OutboxSettings()
    store: StoreSettings = StoreSettings()
    keys: KeySettings = KeySettings()
    platforms: dict[Name, Platform] = Field(default_factory=dict)
    worker: Worker = Worker()
    _folder: Path = PrivateAttr(default_factory=Path.cwd)
    _file: Path | None = PrivateAttr(default=None)
    """What was read; None: there was no file."""
    _may_start_server: bool = PrivateAttr(default=True)

    @property
    def may_start_server(self) -> bool:
        """False for a command that only looks: it starts no embedded server."""
        return self._may_start_server

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before the file: a deployment overrides what is checked in."""
        return env_settings, init_settings

    def path(self, path: Path) -> Path:
        """*path* as the file means it: relative to the file's own folder."""
        return (self._folder / path).resolve()

    def need_platform(self) -> None:
        """Raise `InvalidConfiguration` where none is configured."""
        if not self.platforms:
            where = self._file or f"a tokenferry.toml ({self._folder} has none), or name the file with --config"
            raise InvalidConfiguration(
                f"no platform is configured; add [platforms.NAME] with mode and secret_key to {where}"
            )

    def meant(self, name: str | None) -> str:
        """The name of the platform meant by *name*; None: the only one there is.

        Raises `InvalidConfiguration` where there is none, where there are several, and where *name* is none of them.
        """
        if name is None:
            self.need_platform()
            if len(self.platforms) != 1:
                known = ", ".join(sorted(self.platforms))
                raise InvalidConfiguration(f"name the --platform; configured: {known}")
            (name,) = self.platforms
        self.platform(name)
        return name

    def platform(self, name: str) -> Platform:
        """The platform of that name.

        Raises `InvalidConfiguration` naming the ones there are.
        """
        try:
            return self.platforms[name]
        except KeyError:
            known = ", ".join(sorted(self.platforms)) or "none"
            raise InvalidConfiguration(
                f"platform '{name}' is not configured (there is: {known}); add [platforms.{name}]"
            ) from None


def load(path: Path | None = None) -> Configuration:
    """Read *path* (default `tokenferry.toml` in the working folder, if there is one) and the environment.

    Raises `InvalidConfiguration`, which names the file and the setting and never quotes a value.
    """
    source = path or Path("tokenferry.toml")
    where = str(source)
    content: dict[str, Any] = {}
    if path is not None or source.exists():
        try:
            content = tomllib.loads(source.read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidConfiguration(f"{where}: cannot be read ({error.strerror})") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            reason = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "it is not UTF-8"
            raise InvalidConfiguration(f"{where}: is not TOML: {reason}") from None
    _refuse_misspelled(os.environ)
    try:
        configuration = Configuration(**content)
    except SettingsError:
        # Its text names the variable; its cause holds the value.
        raise InvalidConfiguration(
            "environment: a TOKENFERRY_ variable of a whole section is not JSON; write TOKENFERRY_SECTION__SETTING"
        ) from None
    except ValidationError as error:
        problems = error.errors(include_input=False, include_context=False, include_url=False)
        raise InvalidConfiguration("; ".join(_told(where, p) for p in problems)) from None
    configuration._folder = source.resolve().parent
    configuration._file = source.resolve() if path is not None or source.exists() else None
    return configuration


def _refuse_misspelled(environment: Mapping[str, str]) -> None:
    """A variable with one underscore too few would be passed over, and the default taken.

    Raises `InvalidConfiguration`.
    """
    sections = {name: field.annotation for name, field in Configuration.model_fields.items()}
    for section, model in sections.items():
        for setting in getattr(model, "model_fields", ()):
            if (wrong := f"{PREFIX}{section}_{setting}".upper()) in environment:
                right = f"{PREFIX}{section}__{setting}".upper()
                raise InvalidConfiguration(f"environment: {wrong} is no setting; write {right} (two underscores)")


def _told(where: str, problem: Mapping[str, Any]) -> str:
    """One problem: where the setting was read, which it is, and what is wrong with it."""
    *section, setting = path = [str(part) for part in problem["loc"]]
    names = [f"{PREFIX}{'__'.join(path[:most])}".upper() for most in range(1, len(path) + 1)]
    for variable in sorted(map(str.upper, os.environ)):
        if variable in names or variable.startswith(f"{names[-1]}__"):
            where = f"environment, {variable}"
    place = f"[{'.'.join(section)}] " if section else ""
    return f"{where}: {place}{setting}: {_reason(problem['type'], problem['msg'])}"


def load_to_look(path: Path | None, *sections: Literal["broker", "store"]) -> Configuration:
    """As `load`, for a command that only looks: where *sections* are embedded, their server must be there.

    An empty server, started for the purpose in the wrong folder, would say that all is well, and stay. So none is ever
    started. Raises `InvalidConfiguration` also where nothing says which server is meant; that one is meant and does not
    run is found out when it is needed.
    """
    configuration = load(path)
    configuration._may_start_server = False
    embedded = any(getattr(configuration, section).url == EMBEDDED for section in sections)
    data = configuration.path(configuration.data)
    if path is None and embedded and not Path("tokenferry.toml").exists() and not data.exists():
        raise InvalidConfiguration(
            f"no tokenferry.toml in {Path.cwd()}, no {' and '.join(sections)} named in the environment, and no data "
            f"folder {data}: go to the folder of the configuration, or name it with --config"
        )
    return configuration


def _reason(kind: str, message: str) -> str:
    return "unknown setting" if kind == "extra_forbidden" else message.removeprefix("Value error, ")
