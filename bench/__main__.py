"""Measure this product beside what one would write instead, or, with --base, beside an older version of itself.

Rounds are interleaved: every contender once, then every contender again. Each round does the same work. What counts is
the ratio within a round: a machine that slows down slows down everybody. Printed are medians, the least and the most.

    make bench [ONLY=pipeline,latency] [ROUNDS=5] [REQUESTS=500] [BASE=COMMIT] [JSON=FILE]
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import tables, versions
from bench.contenders import Contender, Product, others
from bench.measuring import spread
from bench.pieces import PIECES, Bench, Figure, Piece
from bench.processes import ROOT, NotMeasured, adopt_orphans, end_all
from bench.svg import bars

PAGE, PICTURE = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance.svg"


def main() -> None:
    """Measure, print, and where everything was measured write the page."""
    options = _options()
    pieces = [PIECES[name] for name in options.only]
    adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("stopped"))
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tokenferry-bench-")))
            contenders = _contenders(options, stack, folder)
            bench = Bench(options.bench_python, folder, options.requests)
            about = _about(options)
            book = measured(bench, pieces, contenders, options.rounds)
            about["load_at_the_end"] = os.getloadavg()[0]
    finally:
        end_all()
    names = [contender.name for contender in contenders]
    figures = [figure for piece in pieces for figure in piece.figures]
    print(tables.plain(book, figures, names))
    if options.json:
        options.json.write_text(tables.as_json(book, figures, names, about) + "\n")
    if options.base is None and len(pieces) == len(PIECES):
        _write_page(book, figures, names, about)
        print(f"\nwritten: {PAGE.relative_to(ROOT)}, {PICTURE.relative_to(ROOT)}")
    else:
        print("\ndocs/performance.md is as it was: only a run of all pieces without BASE writes it")
    if book.failed:
        sys.exit("not everything could be measured; see above")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=_pieces, default=list(PIECES), help=f"pieces of: {','.join(PIECES)}")
    parser.add_argument("--rounds", type=_count, default=5)
    parser.add_argument("--requests", type=_count, default=500, help="requests measured in each round")
    parser.add_argument("--base", help="commit of this repository to compare with, instead of other stacks")
    parser.add_argument("--json", type=Path, help="file for every single value")
    parser.add_argument("--bench-python", type=Path, default=ROOT / ".venv-bench" / "bin" / "python")
    return parser.parse_args()


def _pieces(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or (unknown := sorted(set(names) - set(PIECES))):
        raise argparse.ArgumentTypeError(f"no piece {', '.join(unknown) if names else ''}; known: {', '.join(PIECES)}")
    return [name for name in PIECES if name in names]


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100_000:
        raise argparse.ArgumentTypeError("between 1 and 100000")
    return number


def _contenders(options: argparse.Namespace, stack: ExitStack, folder: Path) -> Sequence[Contender]:
    """Ours first: the ratios are to it."""
    pythons = {"tokenferry": Path(sys.executable)}
    if options.base is not None:
        commit = versions.commit_of(options.base)
        print(f"installing {commit[:9]}", file=sys.stderr)
        base = stack.enter_context(versions.older(commit, folder, Path(sys.executable)))
        pythons[f"at {commit[:9]}"] = base
    products = []
    for number, (name, python) in enumerate(pythons.items()):
        versions.compiled(python)
        home = folder / f"home-{number}"
        home.mkdir()
        products.append(Product(name, python, home))
    return products if options.base is not None else [*products, *others(options.bench_python)]


def measured(bench: Bench, pieces: Sequence[Piece], contenders: Sequence[Contender], rounds: int) -> tables.Book:
    """Every piece: every round: every contender, one after the other."""
    book = tables.Book()
    for piece in pieces:
        for number in range(rounds):
            for contender in contenders:
                if (reason := contender.lacks.get(piece.name)) is not None:
                    book.lack(piece.figures, contender.name, reason)
                    continue
                began, told = time.monotonic(), f"{piece.name}, round {number + 1} of {rounds}, {contender.name}"
                try:
                    found = piece.measure(bench, contender, number)
                except NotMeasured as error:
                    book.failed = True
                    book.lack(piece.figures, contender.name, str(error))
                    print(f"{told}: not measured: {error}", file=sys.stderr)
                else:
                    book.note(piece.figures, contender.name, number, found)
                    said = " ".join(f"{key}={value:.3g}" for key, value in found.items())
                    print(f"{told}: {said} ({time.monotonic() - began:.0f} s)", file=sys.stderr)
    return book


def _about(options: argparse.Namespace) -> dict[str, object]:
    head = subprocess.run(["git", "rev-parse", "--short=9", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "commit": head.stdout.strip() or None,
        "base": options.base,
        "rounds": options.rounds,
        "requests": options.requests,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "load_at_the_beginning": os.getloadavg()[0],
    }


def _write_page(book: tables.Book, figures: Sequence[Figure], names: Sequence[str], about: dict[str, object]) -> None:
    block = (
        f"Commit {about['commit']}, {about['rounds']} rounds, {about['requests']} requests, "
        f"Python {about['python']}, {about['cores']} cores, "
        f"load {about['load_at_the_beginning']:.1f} before and {about['load_at_the_end']:.1f} after.\n\n"
        f"{tables.markdown(book, figures, names)}"
    )
    tables.put_into(PAGE, block)
    cpu = figures[0]
    found = {name: spread(list(book.of(cpu, name).values())) for name in names}
    # Seconds per 1,000 tokens are milliseconds per token.
    values = {name: each.median for name, each in found.items() if each is not None}
    PICTURE.write_text(bars("Worker CPU per token, 25 calls in flight", values, "ms"), encoding="utf-8")


if __name__ == "__main__":
    main()
