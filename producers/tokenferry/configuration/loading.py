"""Reading `tokenferry.toml` and the environment into one `Configuration`."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from tokenferry.addresses import AMQP_SCHEMES, EMBEDDED
from tokenferry.configuration.platforms import Platform
from tokenferry.configuration.sections import (
    Broker,
    InvalidConfiguration,
    KeySettings,
    OutboxSettings,
    ProducerSettings,
    StoreSettings,
    Worker,
)
from tokenferry.contract.names import Name
from tokenferry.contract.problems import reason_of

PREFIX: Final = "TOKENFERRY_"
"""The names of our environment variables begin with it."""


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
    """Folder of the embedded server, and of the sockets with which `tokenferry health` finds workers."""
    broker: Broker = Broker()
    producer: ProducerSettings = ProducerSettings()
    outbox: OutboxSettings = OutboxSettings()
    store: StoreSettings = StoreSettings()
    keys: KeySettings = KeySettings()
    platforms: dict[Name, Platform] = Field(default_factory=dict)
    worker: Worker = Worker()
    _folder: Path = PrivateAttr(default_factory=Path.cwd)
    _file: Path | None = PrivateAttr(default=None)
    """The file that was read; None: there was none."""
    _may_start_server: bool = PrivateAttr(default=True)

    @property
    def may_start_server(self) -> bool:
        """False for a command that only reads: it starts no embedded server."""
        return self._may_start_server

    @property
    def file(self) -> Path | None:
        """The file that was read; None: there was none."""
        return self._file

    @model_validator(mode="after")
    def _two_prefixes(self) -> Self:
        """Refuse one prefix for both: a user with the right to the store could read every queue."""
        amqp = urlsplit(self.broker.url).scheme in AMQP_SCHEMES
        if not amqp and self.broker.prefix == self.store.prefix:
            raise ValueError("[broker] prefix is the same as [store] prefix; write another one")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment comes before the file: a deployment overrides what is checked in."""
        return env_settings, init_settings

    def path(self, path: Path) -> Path:
        """*path* relative to the folder of the file."""
        return (self._folder / path).resolve()

    def need_platform(self) -> None:
        """Raise `InvalidConfiguration` if no platform is configured."""
        if not self.platforms:
            where = self._file or f"a tokenferry.toml ({self._folder} has none), or name the file with --config"
            raise InvalidConfiguration(
                f"no platform is configured; add [platforms.NAME] with mode and secret_key to {where}"
            )

    def meant(self, name: str | None) -> str:
        """Return *name* if a platform has it; for None the name of the only platform.

        Raises `InvalidConfiguration` if there is none, if there are several, or if none is called *name*.
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
        """The platform called *name*.

        Raises `InvalidConfiguration`, which names the platforms there are.
        """
        try:
            return self.platforms[name]
        except KeyError:
            known = ", ".join(sorted(self.platforms)) or "none"
            raise InvalidConfiguration(
                f"platform '{name}' is not configured (there is: {known}); add [platforms.{name}]"
            ) from None


def load(path: str | Path | None = None) -> Configuration:
    """Read *path* (default `tokenferry.toml` in the working folder, if there is one) and the environment.

    Raises `InvalidConfiguration`, which names the file and the setting and never quotes a value.
    """
    path = None if path is None else Path(path)
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
        problems = error.errors(include_input=False, include_url=False)
        raise InvalidConfiguration("; ".join(_problem_text(where, p) for p in problems)) from None
    configuration._folder = source.resolve().parent
    configuration._file = source.resolve() if path is not None or source.exists() else None
    return configuration


def _refuse_misspelled(environment: Mapping[str, str]) -> None:
    """Raise `InvalidConfiguration` for a variable with one underscore too few: it would have no effect."""
    sections = {name: field.annotation for name, field in Configuration.model_fields.items()}
    for section, model in sections.items():
        for setting in getattr(model, "model_fields", ()):
            if (wrong := f"{PREFIX}{section}_{setting}".upper()) in environment:
                right = f"{PREFIX}{section}__{setting}".upper()
                raise InvalidConfiguration(f"environment: {wrong} is no setting; write {right} (two underscores)")


def _problem_text(where: str, problem: Mapping[str, Any]) -> str:
    """One problem: where the setting was read, which it is, and what is wrong with it."""
    if not problem["loc"]:  # about two settings, which the reason names
        return f"{where}: {_reason(problem)}"
    *section, setting = path = [str(part) for part in problem["loc"]]
    names = [f"{PREFIX}{'__'.join(path[:most])}".upper() for most in range(1, len(path) + 1)]
    for variable in sorted(map(str.upper, os.environ)):
        if variable in names or variable.startswith(f"{names[-1]}__"):
            where = f"environment, {variable}"
    place = f"[{'.'.join(section)}] " if section else ""
    return f"{where}: {place}{setting}: {_reason(problem)}"


def load_to_look(path: str | Path | None, *sections: Literal["broker", "store"]) -> Configuration:
    """As `load`, for a command that only reads: if *sections* are embedded, their server must run already.

    A server started for it in the wrong folder would be empty, answer that all is well, and stay. Raises
    `InvalidConfiguration` also if nothing says which server is meant. Whether it runs is found out when it is needed.
    """
    configuration = load_here(path, *sections)
    configuration._may_start_server = False
    return configuration


def load_here(path: str | Path | None, *sections: Literal["broker", "store"]) -> Configuration:
    """As `load`, for a command that would not make sense in a folder without a configuration.

    Raises `InvalidConfiguration` also if nothing says which server is meant.
    """
    configuration = load(path)
    embedded = any(getattr(configuration, section).url == EMBEDDED for section in sections)
    data = configuration.path(configuration.data)
    if path is None and embedded and not Path("tokenferry.toml").exists() and not data.exists():
        raise InvalidConfiguration(
            f"no tokenferry.toml in {Path.cwd()}, no {' and '.join(sections)} named in the environment, and no data "
            f"folder {data}: go to the folder of the configuration, or name it with --config"
        )
    return configuration


def _reason(problem: Mapping[str, Any]) -> str:
    return "unknown setting" if problem["type"] == "extra_forbidden" else reason_of(problem)
