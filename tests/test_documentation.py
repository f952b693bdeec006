"""The documentation says what the code does: tables are compared, commands are run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tokenferry_worker.retries import TABLE, Reaction

ROOT = Path(__file__).parent.parent


def test_the_published_retry_table_is_the_one_the_code_uses() -> None:
    text = (ROOT / "docs" / "retries.md").read_text()
    for row in TABLE:
        first, last = row.status[0], row.status[-1]
        status = str(first) if first == last else f"{first}-{last}"
        kind = row.error_type or ""
        code = "none" if row.code == "" else row.code or ""
        line = f"| {status} | {kind} | {code} | {row.reaction.name} | {row.because} |"
        assert line in text, f"docs/retries.md lacks: {line}"
    assert text.count("\n| ") == len(TABLE) + len(Reaction) + 2  # two headers


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_file_a_page_names_exists(page: Path) -> None:
    for name in re.findall(r"`((?:producers|worker|emulator|docs|tests|deploy|examples)/[\w./*-]+)`", page.read_text()):
        assert list(ROOT.glob(name)), f"{page.name} names {name}, which is not there"
