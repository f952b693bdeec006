"""The bench counts everything that was used, compares within a round, and never shows a zero it has not measured."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import forking
import pytest
from bench import tables
from bench.__main__ import measured
from bench.contenders import Other
from bench.measuring import ratios, tree_cpu
from bench.pieces import Bench, Contender, Figure, Piece
from bench.processes import NotMeasured, answer, started, tree
from bench.protections import microseconds, protections
from bench.svg import bars
from bench.versions import same_needs
from click.testing import CliRunner

from tokenferry_worker.commands.keys import keys

ROOT = Path(__file__).parent.parent
CPU = Figure("cpu", "worker CPU")
BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
# One child works and ends, one works and stays; then a word.
FAMILY = f"""
import subprocess, sys, time
subprocess.run([sys.executable, "-c", {BURN!r}], check=True)
stays = subprocess.Popen([sys.executable, "-c", {BURN!r} + "print(flush=True); time.sleep(60)"], stdout=-1)
stays.stdout.readline()
print("worked", flush=True)
time.sleep(60)
"""


def soon() -> float:
    """A deadline that no machine needs."""
    return time.monotonic() + 60


def test_the_cpu_of_a_tree_contains_children_that_live_and_children_that_have_ended(tmp_path: Path) -> None:
    with started([sys.executable, "-c", FAMILY], tmp_path / "family.log") as family:
        assert family.line(soon()) == "worked"
        assert tree_cpu(family.process.pid) >= 0.58  # the dead child's is told in ticks of 10 ms


def test_what_was_started_has_ended_with_its_block_and_so_have_its_children(tmp_path: Path) -> None:
    with started([sys.executable, "-c", FAMILY], tmp_path / "family.log") as family:
        family.line(soon())
        processes = tree(family.process.pid)
        assert len(processes) == 2
    assert [pid for pid in processes if lives(pid)] == []


def lives(pid: int) -> bool:
    """Whether a process runs. One that has ended and was not asked for by its parent does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_a_program_that_fails_is_not_measured_and_its_last_words_are_kept(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="other ended with 1: no keys"):
        answer([sys.executable, "-c", "raise SystemExit('no keys')"], tmp_path / "other.log", timeout=60.0)


def test_a_program_that_takes_too_long_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="too long"):
        answer([sys.executable, "-c", "input()"], tmp_path / "other.log", timeout=0.1)


def contenders(*names: str) -> list[Contender]:
    """Contenders by name only."""
    return [Other(name, Path(sys.executable), "none", (), {}) for name in names]


def piece(measure: Callable[[str, int], float]) -> Piece:
    """A piece of one figure, given the contender's name and the round."""
    return Piece("one", lambda _, contender, number: {"cpu": measure(contender.name, number)}, (CPU,))


def test_rounds_are_interleaved_and_a_ratio_is_taken_within_its_round(tmp_path: Path) -> None:
    order = []

    def measure(name: str, number: int) -> float:
        order.append((number, name))
        busy = 1.0 + 9.0 * (number == 1)  # the machine slows down for a round
        return busy * (1.0 if name == "ours" else 2.0)

    book = measured(Bench(Path(sys.executable), tmp_path, 1), [piece(measure)], contenders("ours", "others"), 3)
    assert order == [(number, name) for number in range(3) for name in ("ours", "others")]
    assert ratios(book.of(CPU, "ours"), book.of(CPU, "others")) == [0.5, 0.5, 0.5]
    assert not book.failed
    assert "| worker CPU | ours | 1.00 | 1.00 - 10.00 |  |" in tables.markdown(book, [CPU], ["ours", "others"])
    assert "|  | others | 2.00 | 2.00 - 20.00 | 0.50 (0.50 - 0.50) |" in tables.markdown(
        book, [CPU], ["ours", "others"]
    )


def test_a_row_that_could_not_be_measured_is_named_with_its_reason_and_the_run_has_failed(tmp_path: Path) -> None:
    def measure(name: str, number: int) -> float:
        if name == "others":
            raise NotMeasured("its worker ended with 1")
        return 1.0

    book = measured(Bench(Path(sys.executable), tmp_path, 1), [piece(measure)], contenders("ours", "others"), 2)
    assert book.failed
    for text in (tables.plain(book, [CPU], ["ours", "others"]), tables.markdown(book, [CPU], ["ours", "others"])):
        (line,) = [line for line in text.splitlines() if "others" in line]
        assert "not measured" in line
        assert "its worker ended with 1" in line
        assert "0.00" not in line
    told = json.loads(tables.as_json(book, [CPU], ["ours", "others"], {}))
    assert told["figures"] == {"cpu": {"ours": [1.0, 1.0]}}
    assert told["not_measured"] == [{"figure": "cpu", "contender": "others", "why": ["its worker ended with 1"]}]


def test_a_small_value_is_not_shown_as_zero() -> None:
    assert tables.shown(0.00412, 2) == "0.004"
    assert tables.shown(4.12, 0) == "4"


def test_one_failed_round_leaves_the_others_and_is_named(tmp_path: Path) -> None:
    def measure(name: str, number: int) -> float:
        if (name, number) == ("others", 0):
            raise NotMeasured("its worker ended with 1")
        return 1.0 + number

    book = measured(Bench(Path(sys.executable), tmp_path, 1), [piece(measure)], contenders("ours", "others"), 3)
    assert book.failed
    assert ratios(book.of(CPU, "ours"), book.of(CPU, "others")) == [1.0, 1.0]
    assert "2.00 - 3.00; a round failed: its worker ended with 1" in tables.plain(book, [CPU], ["ours", "others"])


def test_only_the_part_between_the_markers_of_the_page_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"by hand\n{tables.BEGIN}\nold\n{tables.END}\nby hand, too\n")
    tables.put_into(page, "| new |")
    assert page.read_text() == f"by hand\n{tables.BEGIN}\n\n| new |\n\n{tables.END}\nby hand, too\n"
    page.write_text("by hand")
    with pytest.raises(ValueError, match="are missing"):
        tables.put_into(page, "| new |")


def test_the_page_has_its_markers_and_the_picture_it_shows() -> None:
    text = (ROOT / "docs" / "performance.md").read_text()
    assert text.count(tables.BEGIN) == text.count(tables.END) == 1
    assert "](performance.svg)" in text
    ElementTree.parse(ROOT / "docs" / "performance.svg")


def test_the_longest_bar_is_of_the_greatest_value_and_names_are_escaped() -> None:
    picture = ElementTree.fromstring(bars("CPU", {"ours": 1.0, "a <b> & c": 4.0}, "ms"))
    drawn = [rect for rect in picture.iter("{http://www.w3.org/2000/svg}rect") if rect.get("y")]
    assert [float(rect.get("width", "0")) for rect in drawn] == [85.0, 340.0]
    assert "a <b> & c" in {text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")}


def test_versions_share_an_installation_only_where_they_need_the_same(tmp_path: Path) -> None:
    for name in ("constraints.txt", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    assert same_needs(ROOT, tmp_path)
    text = (ROOT / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(text.replace('"rich>=15,<16",', '"rich>=14,<16",'))
    assert not same_needs(ROOT, tmp_path)


def test_the_options_of_the_bench_are_explained() -> None:
    code = "import runpy, sys; sys.argv[1:] = ['--help']; runpy.run_module('bench', run_name='__main__')"
    said = forking.run([sys.executable, "-c", code], cwd=ROOT, check=True).stdout
    for name in ("pipeline", "latency", "--base", "--rounds", "--requests", "--json"):
        assert name in said


def test_every_protection_that_is_timed_does_its_work(tmp_path: Path) -> None:
    CliRunner().invoke(keys, ["generate", "--out", str(tmp_path / "keys")], catch_exceptions=False)
    rows = protections(tmp_path / "keys")
    done = {row.name: row.step() for row in rows}
    verified = [value for name, value in done.items() if "verify its" in name or name == "verify the result"]
    assert verified == [True, True]
    assert done["read and verify the order"].request.group == "legacy"
    assert done["write the answer in the asker's version"][1].result.generation == 1
    taken = microseconds(rows, rounds=1, calls=2)
    assert taken.keys() == done.keys()
    assert min(taken.values()) > 0
