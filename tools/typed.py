"""Type checks what users copy, in one run of mypy: examples, Python blocks of README and docs, every public name.

    python tools/typed.py

A block is a module of its own, so it must import what it uses. `# not alone` as its first line says that it is a piece
of something larger; there must be few.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
FOLDER = ROOT / ".blocks"


def blocks() -> dict[str, str]:
    """Every Python block of README and docs, by a name that says where it is."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    found = {}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 2
            name = f"{page.stem.replace('-', '_').lower()}_{line}"
            found[name] = "\n" * (line - 1) + match[1]  # so that mypy says the page's line
    return found


def main() -> int:
    """Write the blocks into files, and return what mypy returns."""
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.py"):
        old.unlink()
    for name, code in blocks().items():
        (FOLDER / f"{name}.py").write_text(code, encoding="utf-8")
    files = [
        *(path for path in (ROOT / "examples").glob("*.py") if path.name not in ("demo.py", "generate.py")),
        *FOLDER.glob("*.py"),
        ROOT / "tests" / "typed" / "every_name.py",
    ]
    return subprocess.run([sys.executable, "-m", "mypy", "--strict", *sorted(map(str, files))], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
