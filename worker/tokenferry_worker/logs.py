"""How a worker logs: which lines (`--log-level`), and as text or as one JSON object per line (`--log-format`)."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Final, Literal

from tokenferry.shown import OneLine
from tokenferry_worker.log_fields import FIELDS

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["text", "json"]

OURS: Final = ("tokenferry", "tokenferry_worker")
"""Our own loggers. Those of libraries stay at WARNING, whatever the level: some log what they carry."""
TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure(level: Level, format_: Format) -> None:
    """Write to standard error. Called once per process."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if format_ == "json" else OneLine(TEXT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(format_ == "json")  # Python's own warnings would be lines of text
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())


class JsonLines(logging.Formatter):
    """Writes each line as a JSON object. `docs/logs.md` lists its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line. Of an error only the type: its text or its traceback could hold anything."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info is not None and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line)
