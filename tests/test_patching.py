"""Tests use real parts: how many lines of them patch something is counted."""

from __future__ import annotations

import re
from pathlib import Path

MOST = 0.07
"""Lines for each test function. Lower it when there are fewer."""
PATCHING = re.compile(r"\b(monkeypatch|MonkeyPatch|\w*Mock|mock|patch\()")
TEST = re.compile(r"^ *(async )?def test_", re.MULTILINE)


def test_few_lines_of_the_tests_patch_something() -> None:
    texts = [path.read_text() for path in Path(__file__).parent.rglob("*.py") if path != Path(__file__)]
    lines = sum(bool(PATCHING.search(line)) for text in texts for line in text.splitlines())
    tests = sum(len(TEST.findall(text)) for text in texts)
    assert lines / tests <= MOST, f"{lines} lines in {tests} tests"
