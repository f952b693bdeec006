"""Prints a bill of materials (CycloneDX 1.6, JSON) of one of the lock files: `python tools/sbom.py worker`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)")


def components(text: str) -> list[dict[str, Any]]:
    """Return every package of a lock file, with the hashes of its files.

    >>> components("click==8.5.1 \\\\\\n    --hash=sha256:00aa\\n")[0]["purl"]
    'pkg:pypi/click@8.5.1'
    """
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        if pin := _PIN.match(line):
            name, version = pin[1].lower().replace("_", "-"), pin[2]
            purl = f"pkg:pypi/{name}@{version}"
            found.append({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl})
        elif "--hash=sha256:" in line:
            digest = line.partition("--hash=sha256:")[2].strip(" \\")
            # One reference for each file of the version: an installation takes one of them.
            reference = {"type": "distribution", "url": found[-1]["purl"]}
            reference["hashes"] = [{"alg": "SHA-256", "content": digest}]
            found[-1].setdefault("externalReferences", []).append(reference)
    return found


def main(lock: str) -> None:
    """Print the bill of one lock file."""
    text = (Path(__file__).resolve().parent.parent / "locks" / f"{lock}.txt").read_text()
    about = {"component": {"type": "application", "name": f"tokenferry-{lock}"}}
    bill = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": about}
    print(json.dumps({**bill, "components": components(text)}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "worker")
