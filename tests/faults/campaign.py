"""The fault campaign: rounds of a seeded load under seeded faults, each judged by a checker that knows every id.

    make faults                                        20,000 requests, in turn on a Valkey and a RabbitMQ of its own
    make faults REQUESTS=100000 SEED=7 BROKER=embedded
    make faults ONLY=kill-all                          one trouble alone; more of them: ARGS="--only cut --only full"
    make faults-mutations BROKER=embedded              the same checker on workers that are broken on purpose
    make outages ROWS=2000 SECONDS=60                  the endpoint is away in the middle of the work, and comes back

A round is replayed by its own seed, which the table names: `make faults SEED=7003 ROUNDS=1 BROKER=rabbitmq`. Load,
troubles and their moments are then the same; what the processes of the machine make of it is not.

Ends with 0 when nothing was found (or every mutation was caught), 1 when something was, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, cast

from e2e.house import BrokerKind
from faults.mutants import MUTANTS, prove
from faults.outages import FAULTS, ROWS, SECONDS, one_outage
from faults.parts import PATIENT, STEADY, Part, frozen_while_idle, long_call, recovery
from faults.plans import SIZE, duplicates, one_round, stage, storm
from faults.rounds import Report
from faults.troubles import TROUBLES

BROKERS: Final[tuple[BrokerKind, ...]] = ("embedded", "own-rabbitmq")
OUTAGE_LINE: Final = "{:9} {:13} {:>6} {:>9} {:>6} {:>8} {:>10} {:>8} {:>12} {:>9}"
OUTAGE_HEAD: Final = [
    "kind",
    "broker",
    "rows",
    "given-up",
    "lost",
    "doubled",
    "settled/s",
    "bound/s",
    "calls-while-down",
    "findings",
]


def main() -> int:
    """Run what is asked for. The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="in all  [default: %(default)s]")
    parser.add_argument("--size", type=int, default=SIZE, help="requests of one round  [default: %(default)s]")
    parser.add_argument("--rounds", type=int, help="instead of as many as the requests need")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; each further one has the next")
    parser.add_argument("--broker", choices=["all", "embedded", "own-rabbitmq", "redis", "rabbitmq"], default="all")
    only = [*TROUBLES, "steps", "producer", "outbox"]
    parser.add_argument("--only", action="append", choices=only, default=[], metavar="FAULT", help=", ".join(only))
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="begin no round after so many  [default: %(default)s]"
    )
    parser.add_argument("--out", type=Path, default=Path(".faults"), help="for the report and the logs of a finding")
    parser.add_argument("--json", action="store_true", help="print the report instead of tables")
    parser.add_argument(
        "--parts", action="store_true", help="the measurements with one subject each, instead of rounds"
    )
    parser.add_argument(
        "--mutations",
        nargs="*",
        choices=list(MUTANTS),
        metavar="NAME",
        help="broken workers (all, or these), instead of rounds",
    )
    parser.add_argument(
        "--outages", nargs="*", choices=list(FAULTS), metavar="KIND", help=f"of the endpoint: {', '.join(FAULTS)}"
    )
    parser.add_argument("--rows", type=int, default=ROWS, help="requests of one outage  [default: %(default)s]")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of one outage  [default: %(default)s]")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: what was started is ended first
    options.out.mkdir(parents=True, exist_ok=True)
    brokers = BROKERS if options.broker == "all" else (cast(BrokerKind, options.broker),)
    if options.mutations is not None:
        return _mutations(options, brokers)
    if options.outages is not None:
        return _outages(options, brokers)
    if options.parts:
        return _parts(options, brokers)
    return _rounds(options, brokers)


def _rounds(options: argparse.Namespace, brokers: Sequence[BrokerKind]) -> int:
    began, rows, found = time.monotonic(), [], 0
    done, number = 0, 0
    while done < options.requests if options.rounds is None else number < options.rounds:
        if time.monotonic() - began > 60 * options.minutes:
            break
        seed, kind = options.seed + number, brokers[number % len(brokers)]
        size = options.size
        twins = not options.only and seed % 8 in (6, 7)  # one round of four on each broker, whoever begins
        plan = duplicates(size) if twins else storm(kind, seed, size, options.only)
        report = one_round(kind, seed, plan, options.out)
        rows.append(_row(report, "duplicates" if twins else "storm"))
        done, number = done + report.verdict.counts["accepted"], number + 1
        found += len(report.verdict.findings)
        _write(options.out / "rounds.json", {"rounds": rows, "total": _total(rows)})
        if not options.json:
            _say_round(report, "duplicates" if twins else "storm")
    total = _total(rows)
    print(json.dumps({"rounds": rows, "total": total}) if options.json else _table(total))
    return 1 if found else 0


def _row(report: Report, what: str) -> dict[str, Any]:
    return {
        "seed": report.seed,
        "broker": report.broker,
        "what": what,
        "seconds": round(report.seconds, 1),
        "findings": list(map(str, report.verdict.findings)),
        "counts": dict(report.verdict.counts),
        "steps": dict(report.steps),
        "troubles": dict(report.troubles),
        "sends repeated": report.refusals,
        "crashed deliveries": report.crashes,
        "diary": report.diary,
    }


def _total(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    by_broker: dict[str, Any] = {}
    for row in rows:
        sums = by_broker.setdefault(row["broker"], Counter())
        sums.update({"rounds": 1, "findings": len(row["findings"]), "seconds": row["seconds"]})
        sums.update({"sends repeated": row["sends repeated"], "crashed deliveries": row["crashed deliveries"]})
        sums.update(row["counts"])
        sums.update({f"trouble: {name}": count for name, count in row["troubles"].items()})
        sums.update({f"stopped at: {name}": count for name, count in row["steps"].items()})
    return {broker: dict(sums) for broker, sums in by_broker.items()}


def _say_round(report: Report, what: str) -> None:
    counts = report.verdict.counts
    print(
        f"{report.broker:12} {what:10} seed {report.seed:<6} {counts['accepted']:6} accepted"
        f"  {sum(report.troubles.values()) + sum(report.steps.values()):3} faults"
        f"  {counts['requests called for more than once']:5} called for again"
        f"  {report.seconds:4.0f} s  {len(report.verdict.findings)} findings",
        flush=True,
    )
    for finding in report.verdict.findings[:10]:
        print(f"    {finding}", flush=True)


def _table(total: dict[str, Any]) -> str:
    names = list(dict.fromkeys(name for sums in total.values() for name in sums))
    lines = [f"{'':44}" + "".join(f"{broker:>12}" for broker in total)]
    lines += [f"{name:44}" + "".join(f"{round(sums.get(name, 0)):>12}" for sums in total.values()) for name in names]
    return "\n".join(lines)


def _parts(options: argparse.Namespace, brokers: Sequence[BrokerKind]) -> int:
    parts = []
    for part in _measured(brokers, options.seed):
        parts.append(part)
        figures = ", ".join(f"{name} {value:g}" for name, value in part.figures.items())
        print(f"{part.broker:12} {part.name:18} {part.verdict.counts['accepted']:6} accepted  {figures}", flush=True)
        for finding in part.verdict.findings[:10]:
            print(f"    {finding}", flush=True)
    rows = [{"part": part.name, "broker": part.broker, "figures": part.figures} for part in parts]
    found = [str(finding) for part in parts for finding in part.verdict.findings]
    _write(options.out / "parts.json", {"parts": rows, "findings": found})
    return 1 if found else 0


def _measured(brokers: Sequence[BrokerKind], seed: int) -> Iterator[Part]:
    for kind in brokers:
        with stage(kind, seed, latency_ms=400, configuration=STEADY) as opened:
            yield recovery(opened, kills=20, seed=seed)
        with stage(kind, seed, configuration=PATIENT) as opened:
            yield long_call(opened, seconds=40.0, seed=seed)
        with stage(kind, seed) as opened:
            yield frozen_while_idle(opened, rounds=50, seed=seed)


def _mutations(options: argparse.Namespace, brokers: Sequence[BrokerKind]) -> int:
    rows: list[dict[str, Any]] = []
    for kind, name in itertools.product(brokers, options.mutations or MUTANTS):
        if kind not in MUTANTS[name].brokers:
            print(f"{kind:12} {name:18} means nothing there", flush=True)
            continue
        proof = prove(name, kind, options.seed, options.out)
        crimes = Counter(finding.crime for finding in proof.mutated.findings)
        control, accepted = list(map(str, proof.control.findings)), proof.mutated.counts["accepted"]
        rows.append({"mutation": name, "broker": kind, "caught": proof.holds, "crimes": crimes, "control": control})
        print(
            f"{kind:12} {name:18} {'caught' if proof.holds else 'MISSED'}  of {accepted} accepted: "
            + (", ".join(f"{count} {crime}" for crime, count in crimes.items()) or "nothing found")
            + f"; control: {len(control)} findings",
            flush=True,
        )
    _write(options.out / "mutations.json", {"mutations": rows})
    return 0 if all(row["caught"] for row in rows) else 1


def _outages(options: argparse.Namespace, brokers: Sequence[BrokerKind]) -> int:
    if options.rows < 100 or options.seconds < 1:
        print("--rows must be at least 100 and --seconds at least 1: less proves nothing", file=sys.stderr)
        return 2
    print(OUTAGE_LINE.format(*OUTAGE_HEAD), flush=True)
    rows: list[dict[str, Any]] = []
    for kind, name in itertools.product(brokers, options.outages or FAULTS):
        report = one_outage(kind, name, rows=options.rows, seconds=options.seconds, seed=options.seed, out=options.out)
        figures, findings = report.figures, list(map(str, report.verdict.findings))
        settled = "never" if figures.settled is None else f"{figures.settled:.1f}"
        line = (name, kind, figures.rows, figures.given_up, figures.lost, figures.doubled, settled)
        print(OUTAGE_LINE.format(*line, f"{figures.bound:.1f}", figures.calls_down, len(findings)), flush=True)
        for finding in findings[:5]:
            print(f"    {finding}", flush=True)
        what = {"kind": name, "broker": kind, "seed": options.seed, "seconds": report.seconds, **asdict(figures)}
        rows.append(what | {"findings": findings, "counts": dict(report.verdict.counts), "diary": report.diary})
        _write(options.out / "outages.json", {"outages": rows})
    return 1 if any(row["findings"] for row in rows) else 0


def _write(path: Path, page: dict[str, Any]) -> None:
    path.write_text(json.dumps(page, indent=1))


if __name__ == "__main__":
    sys.exit(main())
