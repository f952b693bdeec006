"""What is installed is locked by hash, and the bill of materials names all of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "locks").glob("*.txt"))
PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)", re.MULTILINE)


def pins(text: str) -> dict[str, str]:
    return {name.lower().replace("_", "-"): version for name, version in PIN.findall(text)}


@pytest.mark.parametrize("lock", LOCKS, ids=[lock.stem for lock in LOCKS])
def test_every_package_has_hashes_and_the_version_that_is_tested(lock: Path) -> None:
    text = lock.read_text()
    tested = pins((ROOT / "constraints.txt").read_text())
    here = pins(text)
    assert here
    assert {name: version for name, version in here.items() if tested.get(name, version) != version} == {}
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert "://" not in text, "no index is named"


def test_each_installation_takes_its_packages_by_hash() -> None:
    makefile, dockerfile = (ROOT / "Makefile").read_text(), (ROOT / "Dockerfile").read_text()
    for name in ("build", "dev"):
        assert f"--require-hashes -r locks/{name}.txt" in makefile
    for name in ("build", "producer", "worker", "emulator"):
        assert f"--require-hashes -r locks/{name}.txt" in dockerfile
    for line in re.findall(r"pip install.*", dockerfile):
        assert "--require-hashes" in line or "--no-deps" in line
    assert "ARG BASE" in dockerfile


def test_the_bill_of_materials_names_every_package_of_the_lock() -> None:
    printed = subprocess.run(
        [sys.executable, ROOT / "tools/sbom.py", "worker"], check=True, capture_output=True, text=True
    ).stdout
    bill = json.loads(printed)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    named = {each["name"]: each["version"] for each in bill["components"]}
    assert named == pins((ROOT / "locks/worker.txt").read_text())
    assert all(each["externalReferences"] for each in bill["components"])
