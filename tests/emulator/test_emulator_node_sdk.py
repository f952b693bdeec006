"""The official Node SDK does not notice the difference either."""

import os
import subprocess
from pathlib import Path

import pytest

from tokenferry_emulator.testing import EmulatorProcess

FOLDER = Path(__file__).parents[1] / "node"


@pytest.mark.skipif(
    os.environ.get("TOKENFERRY_NODE_SDK") != "1",
    reason="run `npm install --no-package-lock` in tests/node and set TOKENFERRY_NODE_SDK=1",
)
def test_the_node_sdk_creates_reads_attaches_replays_and_fails(emulator: EmulatorProcess) -> None:
    done = subprocess.run(
        ["node", "check.mjs", emulator.url], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 7
