"""An older version of the product: a worktree and a virtual environment of its own, both gone at the end."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.processes import ROOT

TO_INSTALL = 900.0
"""Seconds that a whole installation may take."""


def commit_of(name: str) -> str:
    """The full id of the commit that *name* means. Raises SystemExit where it means none."""
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise SystemExit(f"BASE={name}: this repository has no such commit; name one as `git log` shows it")
    return found.stdout.strip()


def needs(pyproject: str) -> dict[str, Any]:
    """What an installation brings along: two versions with the same needs can share one."""
    project = tomllib.loads(pyproject)
    optional = project["project"].get("optional-dependencies", {})
    return {
        "build": project["build-system"],
        "always": project["project"]["dependencies"],
        **{name: optional.get(name) for name in ("worker", "emulator")},
    }


def same_needs(one: Path, other: Path) -> bool:
    """Whether two source trees need the same packages in the same versions."""
    return (one / "constraints.txt").read_text() == (other / "constraints.txt").read_text() and needs(
        (one / "pyproject.toml").read_text()
    ) == needs((other / "pyproject.toml").read_text())


@contextmanager
def older(commit: str, folder: Path, python: Path) -> Iterator[Path]:
    """Install *commit* under *folder*: the Python of its environment. *python*: that of this version's.

    Where both need the same packages, it uses those of this version instead of a second copy.
    """
    tree, home = folder / "base", folder / "base-venv"
    _run(["git", "worktree", "add", "--detach", "--quiet", str(tree), commit])
    try:
        if not (tree / "constraints.txt").exists():
            raise SystemExit(f"BASE: {commit[:9]} has no constraints.txt yet; it is too old to be installed as it was")
        its = home / "bin" / "python"
        pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
        constraints = ["-c", str(tree / "constraints.txt")]
        if same_needs(ROOT, tree):
            _run([str(python), "-m", "venv", "--without-pip", str(home)])
            theirs, ours = (_packages(each) for each in (its, python))
            # After its own, by the alphabet: what both have, it takes from its own tree.
            (theirs / "zz-shared.pth").write_text(f"{ours}\n")
            install = [str(python), *pip, "--python", str(its), "install", "--no-deps", "--ignore-installed"]
            _run([*install, "--no-build-isolation", "-e", str(tree)])
        else:
            _run([str(python), "-m", "venv", str(home)])
            _run([str(its), *pip, "install", *constraints, "hatchling", "editables"])
            _run([str(its), *pip, "install", *constraints, "--no-build-isolation", "-e", f"{tree}[worker,emulator]"])
        _check(its, tree)
        yield its
    finally:
        _run(["git", "worktree", "remove", "--force", str(tree)])


def compiled(python: Path) -> None:
    """Compile what `tokenferry` is made of, so that no start has to."""
    code = "import compileall, {0}; compileall.compile_dir({0}.__path__[0], quiet=2)"
    for package in ("tokenferry", "tokenferry_worker"):
        _run([str(python), "-c", code.format(package)])


def _packages(python: Path) -> Path:
    return Path(_run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())


def _check(python: Path, tree: Path) -> None:
    found = _run([str(python), "-c", "import tokenferry, tokenferry_worker; print(tokenferry.__file__)"]).strip()
    if not Path(found).is_relative_to(tree):
        raise SystemExit("the older version was installed, but its Python loads this one")


def _run(command: list[str]) -> str:
    """Run *command* in the repository: what it printed. Raises SystemExit with its own words where it fails."""
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TO_INSTALL, check=False)
    if ran.returncode:
        raise SystemExit(f"{' '.join(command[:6])} ... failed:\n{ran.stderr.strip()[-2000:]}")
    return ran.stdout
