"""What the user says about a file: which column is which field, constants, other words for values, forms of dates.

It comes from options of the command, or from a map file (TOML), or from both: an option wins.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

from tokenferry.contract.requests import REQUESTS
from tokenferry.inputs.columns import date_at, field_of, quoted, suggestion
from tokenferry.inputs.dates import UnknownForm, check_form
from tokenferry.inputs.rows import InvalidMapping

READY: Final = ("stripe-pan-import", "gr4vy")
"""Names of the map files that come with the package."""
_SECTIONS: Final = ("columns", "constants", "values", "formats", "leave_out_rest", "null", "encoding", "delimiter")

_OF_ONE_ROW: Final = frozenset({
    *("number", "cvc", "account_number", "id_number", "id_number_secondary", "ssn_last_4", "personal_id_number"),
})  # fmt: skip
"""Fields that are secret and of one person or account."""

SUSPECT: Final = frozenset({
    *("null", "(null)", "<null>", "[null]", "none", "nil", "nan", "n/a", "#n/a", "undefined", "not available"),
    *("#value!", "#ref!", "#name?", "#null!", "#div/0!", "#num!"),
})  # fmt: skip
"""Words that often stand for "no value", and that may be somebody's name. In lower case."""
NOTHING: Final = r"\N"
"""What MySQL and PostgreSQL write for "no value". No field takes it as a value."""


@dataclass(frozen=True)
class ColumnMap:
    """What the columns of one file mean."""

    columns: Mapping[str, str | None] = field(default_factory=dict)
    """Field by column name; `#3` is the third column. None leaves the column out."""
    constants: Mapping[str, str] = field(default_factory=dict)
    """Values of fields that a row does not give."""
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Other words for values, by field."""
    formats: Mapping[str, str] = field(default_factory=dict)
    """Forms of dates by field."""
    leaves_out_rest: bool = False
    """True: columns that are neither named here nor called like a field are left out."""
    null: frozenset[str] | None = None
    """Words that stand for "no value". None: nobody said, so words in `SUSPECT` reject their row."""
    encoding: str | None = None
    delimiter: str | None = None

    def with_options(
        self,
        *,
        columns: Mapping[str, str | None],
        constants: Mapping[str, str],
        leaves_out_rest: bool = False,
        null: Iterable[str] | None = None,
    ) -> ColumnMap:
        """Return the map with options of the command, which win."""
        return replace(
            self,
            columns={**self.columns, **columns},
            constants={**self.constants, **constants},
            leaves_out_rest=self.leaves_out_rest or leaves_out_rest,
            null=frozenset(null) if null is not None else self.null,
        )

    def suspect(self, text: str) -> bool:
        """True if *text* may stand for "no value", and nobody said whether it does."""
        return self.null is None and text.casefold() in SUSPECT

    def is_nothing(self, text: str) -> bool:
        """True if *text* stands for "no value"."""
        return not text or text == NOTHING or (self.null is not None and text in self.null)

    def word(self, name: str, text: str) -> str:
        """The word that Stripe uses for the value *text* of a field."""
        words = self.values.get(name)
        return text if words is None else words.get(text, text)


def bare(name: str) -> str:
    """A field's name without its kind: `number` of `card.number`."""
    first, _, rest = name.partition(".")
    return rest if rest and first in REQUESTS else name


def parse_maps(maps: Iterable[str]) -> dict[str, str | None]:
    """Parse `COLUMN=FIELD` options into field names by column name. None ignores the column.

    Raises `InvalidMapping`.
    """
    parsed: dict[str, str | None] = {}
    for text in maps:
        source, equals, target = (part.strip() for part in text.rpartition("="))
        if not equals or not source:
            raise InvalidMapping('--map wants "COLUMN=FIELD", or "COLUMN=" to leave a column out')
        if source in parsed:
            raise InvalidMapping(f"--map names {quoted(source)} twice")
        if target and field_of(target) is None:
            raise InvalidMapping(f"--map: {quoted(target)} is not a field{suggestion(target)}")
        parsed[source] = target or None
    return parsed


def parse_constants(settings: Iterable[str]) -> dict[str, str]:
    """Parse `FIELD=VALUE` options. Raises `InvalidMapping`, which repeats no value."""
    parsed: dict[str, str] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not value.strip():
            raise InvalidMapping('--set wants "FIELD=VALUE": the value of every row that gives none')
        _check_constant(name, "--set")
        if name in parsed:
            raise InvalidMapping(f"--set names {name} twice")
        parsed[name] = value.strip()
    return parsed


def read_map_file(source: str) -> ColumnMap:
    """Read a map file, or one that comes with the package, by its name. Raises `InvalidMapping`."""
    try:
        if source in READY and not Path(source).exists():
            text = resources.files("tokenferry.inputs").joinpath("maps", f"{source}.toml").read_text("utf-8")
        else:
            text = Path(source).read_text("utf-8")
        return column_map(tomllib.loads(text), source)
    except FileNotFoundError:
        raise InvalidMapping(f"{source}: there is no such map file; ready ones are {', '.join(READY)}") from None
    except OSError as error:
        raise InvalidMapping(f"{source}: cannot be read ({error.strerror})") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidMapping(f"{source}: is not TOML: {error}") from None
    except UnicodeDecodeError:
        raise InvalidMapping(f"{source}: is not UTF-8") from None


def column_map(stored: Mapping[str, Any], source: str) -> ColumnMap:
    """Return the map that the tables of a map file describe. Raises `InvalidMapping`, which names *source*."""
    if unknown := sorted(set(stored) - set(_SECTIONS)):
        raise InvalidMapping(f"{source}: {quoted(unknown[0])} is not known; known are {', '.join(_SECTIONS)}")
    columns = _texts(stored, "columns", source)
    for column, name in columns.items():
        if name and field_of(name) is None:
            raise InvalidMapping(f"{source}: [columns] {quoted(column)}: {quoted(name)} is no field{suggestion(name)}")
    constants = _texts(stored, "constants", source)
    for name in constants:
        _check_constant(name, f"{source}: [constants]")
    formats = _texts(stored, "formats", source)
    for name, form in formats.items():
        _check_form(name, form, source)
    values = stored.get("values", {})
    if not isinstance(values, dict):
        raise InvalidMapping(f"{source}: [values] must hold a table for each field: [values.account_holder_type]")
    for name in values:
        _check_field(name, f"{source}: [values]")
    return ColumnMap(
        {column: name or None for column, name in columns.items()},
        constants,
        {bare(name): _texts(values, name, source) for name in values},
        {bare(name): form for name, form in formats.items()},
        _flag(stored, "leave_out_rest", source),
        _words(stored, source),
        _text(stored, "encoding", source),
        _text(stored, "delimiter", source),
    )


def _check_field(name: str, where: str) -> None:
    if field_of(name) is None:
        raise InvalidMapping(f"{where}: {quoted(name)} is not a field{suggestion(name)}")


def _check_constant(name: str, where: str) -> None:
    """Refuse what belongs to one row. On a command line or in a map file it would stand in clear, too."""
    _check_field(name, where)
    if name == "key" or name.rpartition(".")[2] in _OF_ONE_ROW:
        raise InvalidMapping(f"{where}: {name} cannot be the same in every row; give it a column")


def _check_form(name: str, form: str, source: str) -> None:
    expiry = name.removeprefix("card.") == "expiry"
    if not expiry and not date_at(name):
        raise InvalidMapping(f"{source}: [formats] {quoted(name)} is neither expiry nor a date, like individual.dob")
    try:
        check_form(form, day=not expiry)
    except UnknownForm as error:
        raise InvalidMapping(f"{source}: [formats] {name}: {error}") from None


def _texts(stored: Mapping[str, Any], section: str, source: str) -> dict[str, str]:
    table = stored.get(section, {})
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise InvalidMapping(f'{source}: [{section}] must hold texts only, like name = "value"')
    return table


def _text(stored: Mapping[str, Any], name: str, source: str) -> str | None:
    value = stored.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidMapping(f"{source}: {name} must be text")
    return value


def _flag(stored: Mapping[str, Any], name: str, source: str) -> bool:
    value = stored.get(name, False)
    if not isinstance(value, bool):
        raise InvalidMapping(f"{source}: {name} must be true or false")
    return value


def _words(stored: Mapping[str, Any], source: str) -> frozenset[str] | None:
    words = stored.get("null")
    if words is None:
        return None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InvalidMapping(f'{source}: null must be a list of words, like ["NULL", "N/A"]')
    return frozenset(words)
