"""The results file of an onboarding that goes on: complete accounts keep their line, the others get a new one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tokenferry.bulk.outputs import UnusableOutput
from tokenferry.onboarding.accounts import OnboardingCounts
from tokenferry.owned_files import new_beside


def complete_in(results: Path, counts: OnboardingCounts) -> set[str]:
    """Return the references of the complete accounts of a results file, and add them to *counts*.

    Only their lines stay in the file: the other accounts are sent again, and get their line then. Raises
    `UnusableOutput` if the file has a line that is none of an onboarding. Nothing has changed then.
    """
    lines = _last_lines(results)
    new: Path | None = None
    try:
        descriptor, new = new_beside(results)
        with open(descriptor, "wb") as kept:
            kept.writelines(text for text, _ in lines.values())
            kept.flush()
            os.fsync(kept.fileno())
        new.replace(results)
    except OSError as error:
        if new is not None:
            new.unlink(missing_ok=True)
        raise UnusableOutput(f"{results}: cannot be written ({error.strerror})") from None
    for _, line in lines.values():
        steps = [step for step in line.get("steps") or () if step.get("status") == "done"]
        counts.complete += 1
        counts.sent += 1
        counts.steps_done += len(steps)
        counts.steps_earlier += len(steps)
        counts.still_due += bool((line.get("requirements") or {}).get("currently_due"))
    return set(lines)


def _last_lines(results: Path) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """The last line of each complete account, by reference."""
    lines: dict[str, tuple[bytes, dict[str, Any]]] = {}
    if not results.exists():
        return lines
    try:
        with results.open("rb") as file:
            for text in file:
                if not text.endswith(b"\n"):
                    break  # it was cut off when the process died
                line = _read(text, results)
                if line["status"] == "complete":
                    lines[line["key"]] = text, line
                else:
                    lines.pop(line["key"], None)
    except OSError as error:
        raise UnusableOutput(f"{results}: cannot be read ({error.strerror})") from None
    return lines


def _read(text: bytes, results: Path) -> dict[str, Any]:
    try:
        line = json.loads(text)
        line["key"], line["status"], line["row"]
    except (ValueError, TypeError, LookupError, RecursionError):
        raise UnusableOutput(f"{results}: holds something other than outcomes of accounts; name another file") from None
    return line  # type: ignore[no-any-return]
