"""The documentation says what the code does: tables are compared, commands are run."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path

import forking
import pytest

from tokenferry.broker import embedded
from tokenferry.configuration import Configuration, LimitSettings, Platform
from tokenferry.contract.codes import FAILURES
from tokenferry_worker.provider.retries import TABLE, Reaction

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


def test_the_published_failure_codes_are_the_table_that_the_code_uses() -> None:
    text = (ROOT / "docs" / "codes.md").read_text()
    follows = [failure for failure in FAILURES if failure.kept or failure.effect != "none"]
    lines = [f"| `{failure.code}` | {failure.because} |" for failure in FAILURES]
    for failure in follows:
        message, effect = "kept" if failure.kept else "", "" if failure.effect == "none" else failure.effect
        lines.append(f"| `{failure.code}` | {message} | {effect} |")
    assert [line for line in lines if line not in text] == []
    assert text.count("\n| `") == len(lines)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_file_a_page_names_exists(page: Path) -> None:
    folders = "producers|worker|emulator|docs|tests|deploy|examples|bench"
    for name in re.findall(rf"`((?:{folders})/[\w./*-]+)`", page.read_text()):
        assert list(ROOT.glob(name)), f"{page.name} names {name}, which is not there"


def test_every_setting_is_on_its_page() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    models = [Platform, LimitSettings, *(field.annotation for field in Configuration.model_fields.values())]
    settings = {name for model in models for name in getattr(model, "model_fields", ())} - {"limits"}
    assert not [name for name in sorted(settings) if f"`{name}`" not in text]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TRIED = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in ("watch", "python", "testing-your-code", "slow", "failed", "operations")
    ),
]
"""Pages whose fenced commands are run, in this order: the later ones need what the README has started."""
PROSE = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "examples" / "README.md", ROOT / "tests" / "README.md"]
WIDEST = 110


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_of_a_page_is_too_long(page: Path) -> None:
    long = [number for number, line in enumerate(page.read_text().splitlines(), 1) if len(line) > WIDEST]
    assert not long, f"{page.name}: longer than {WIDEST} characters: lines {long}"


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_page_and_a_heading_that_exist(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text())
    for name, anchor in links:
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {name}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {name}#{anchor}"


def test_the_readme_links_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert not [page.name for page in PAGES[1:] if f"](docs/{page.name})" not in readme]


def blocks(language: str) -> list[str]:
    """The fenced blocks in one language, of all pages that are tried."""
    fenced = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [block for page in TRIED for block in fenced.findall(page.read_text())]


@pytest.mark.timeout(300)  # some thirty programs start, one after the other
def test_every_command_of_the_readme_and_of_the_pages_works_in_its_order(tmp_path: Path) -> None:
    port = free_port()
    shell = "\n".join(blocks("sh")).replace("12111", str(port))
    # The configuration that `init` writes names the emulator's usual port.
    shell = re.sub(r"^(tokenferry init .*)$", rf"\1\nsed -i s/12111/{port}/ tokenferry.toml", shell, flags=re.MULTILINE)
    # Commands that stay in the background must be up before the next one uses them, as they are when a person types.
    for command, word in (("emulator", "listening"), ("worker", "ready")):
        started = rf"\1 > {command}.log 2>&1 &\nawait {command}.log {word}"
        shell = re.sub(rf"^(tokenferry {command} .*) &$", started, shell, flags=re.MULTILINE)
    python = "".join(f"python - <<'END_OF_PYTHON'\n{block}END_OF_PYTHON\n" for block in blocks("python"))
    script = f"""
set -euo pipefail
trap 'kill $(jobs -p); wait' EXIT
await() {{ for _ in $(seq 300); do grep -q "$2" "$1" && return; sleep 0.1; done; cat "$1"; return 1; }}
{shell}
{python}"""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = {**os.environ, "PATH": forking.stand_in_path(tmp_path / "bin")}
    try:
        ran = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    finally:
        embedded.stop(tmp_path / ".tokenferry")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"^cus_\w+$", ran.stdout, re.MULTILINE), ran.stdout
    # Which rows are settled first is nobody's promise.
    assert re.search(r'"status": ?"(attached|tokenized)"', ran.stdout), ran.stdout


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
