"""The main job on one machine: a queue, workers, an endpoint, an import of 1,000 rows, and the proof of what happened.

Run it with `make demo`. It starts everything it needs in a temporary folder, on the loopback interface only, and
stops it again. Exit code 0 when every check holds.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

from rich.console import Console
from rich.table import Table

from tokenferry.broker import embedded

ROWS = Path(__file__).with_name("onboarding.csv")
PER_OPERATION, OVERALL, ACCOUNT_CREATIONS, BURST = 40, 80, 20, 5
"""Calls per second that the endpoint grants here, and above which it answers 429."""

CONFIGURATION = """\
# broker and store: the embedded Valkey, by default
[platforms.demo]
mode = "test"
base_url = "{endpoint}"
secret_key = {{ env = "DEMO_SECRET_KEY" }}
publishable_key = {{ env = "DEMO_PUBLISHABLE_KEY" }}

[platforms.demo.limits]
by = "operation"
global_per_second = {overall}
operation_per_second = {per_operation}
account_creation_per_second = {account_creations}
"""

NEXT = """
next, with your own file:
  . .venv/bin/activate
  tokenferry init          # a configuration, keys and sample files
  tokenferry --help        # README.md, "Try it", goes on from there"""

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    """Run the demo; 0 when every check holds."""
    began = time.monotonic()
    with ExitStack() as stack:
        house = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tokenferry-demo-")))
        # Whoever stops the demo stops all of it: the exit stack ends every process it started.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        say("keys", "a worker identity and signing keys, made for this run")
        run("keys", "generate", "--out", str(house / "keys"), quiet=True)

        server = stack.enter_context(embedded.running(house / ".tokenferry"))
        say("queue and store", f"embedded Valkey, pid {server.pid}, no port, append-only file")

        emulator, endpoint = stack.enter_context(start_emulator(house))
        say(
            "endpoint",
            f"Stripe-compatible emulator at {endpoint}, pid {emulator.pid}, {PER_OPERATION} calls/s per operation",
        )

        (house / "tokenferry.toml").write_text(
            CONFIGURATION.format(
                endpoint=endpoint,
                overall=OVERALL,
                per_operation=PER_OPERATION,
                account_creations=ACCOUNT_CREATIONS,
            )
        )
        workers = [stack.enter_context(start_worker(house, role, n)) for role, n in (("tokenize", 2), ("attach", 1))]
        say("workers", "two tokenize processes, one attach process")

        console.print(f"\n[bold]tokenferry import {ROWS.parent.name}/{ROWS.name}[/]")
        results, rejects = house / "results.jsonl", house / "rejects.csv"
        summary = house / "summary.json"
        with summary.open("wb") as out:
            arguments = ["import", str(ROWS), "--results", str(results), "--rejects", str(rejects), "--json"]
            imported = subprocess.run([*TOKENFERRY, *arguments], cwd=house, env=environment(), stdout=out, check=False)
        if imported.returncode not in (0, 1) or not summary.stat().st_size:
            console.print(f"the import ended with exit code {imported.returncode}; the logs:")
            for log in sorted(house.glob("*.log")):
                console.print(log.read_text(), markup=False)
            return 1
        report(json.loads(summary.read_bytes()), results, rejects)
        with urlopen(f"{endpoint}/_ledger") as answer:
            ledger = json.load(answer)
        checks = [*ledger_checks(ledger), *secret_checks(house)]
        pids = [server.pid, emulator.pid, *(pid for worker in workers for pid in family(worker.pid))]
    checks.append(("no process is left behind", not any(map(alive, pids)), f"{len(pids)} processes ended"))
    console.print()
    for promise, kept, evidence in checks:
        console.print(f"  {'[green]✓[/]' if kept else '[red]✗[/]'} {promise}  [dim]{evidence}[/]")
    kept = all(kept for _, kept, _ in checks)
    console.print(f"\n{'Every check holds' if kept else 'A check failed'}, after {time.monotonic() - began:.0f} s.")
    console.print(NEXT, markup=False)
    return 0 if kept else 1


TOKENFERRY = [sys.executable, "-m", "tokenferry"]


def environment() -> dict[str, str]:
    """Keys travel in the environment, never in arguments. These open nothing but the emulator."""
    return {
        **os.environ,
        "DEMO_SECRET_KEY": "sk_test_demo",
        "DEMO_PUBLISHABLE_KEY": "pk_test_demo",
    }


def run(*arguments: str, quiet: bool = False) -> None:
    """One command of ours, to its end."""
    subprocess.run([*TOKENFERRY, *arguments], check=True, stdout=subprocess.DEVNULL if quiet else None)


@contextmanager
def start(house: Path, name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A long-running command with its output in a log file, stopped at the end."""
    with (house / f"{name}.log").open("wb") as log:
        # A session of its own: Ctrl-C is for the import, which stops first; we stop the rest.
        process = subprocess.Popen(
            [*TOKENFERRY, *arguments], cwd=house, env=environment(), stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def start_emulator(house: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The endpoint, on a free port."""
    limits = {
        "--endpoint-rate": PER_OPERATION,
        "--global-rate": OVERALL,
        "--account-creation-rate": ACCOUNT_CREATIONS,
        "--burst": BURST,
        "--latency-ms": 120,
    }
    arguments = [str(word) for pair in limits.items() for word in pair]
    with start(house, "emulator", "emulator", "--port", "0", *arguments) as process:
        line = wait_for(house / "emulator.log", "listening on ", process)
        yield process, line.split("listening on ")[1].strip()


@contextmanager
def start_worker(house: Path, role: str, processes: int) -> Iterator[subprocess.Popen[bytes]]:
    """Worker processes of one role, up and reading their queues; the process that keeps them running."""
    with start(house, role, "worker", "--role", role, "--processes", str(processes)) as process:
        wait_for(house / f"{role}.log", "ready", process, times=processes)
        yield process


def wait_for(log: Path, words: str, process: subprocess.Popen[bytes], times: int = 1) -> str:
    """The line of *log* with *words* in it, once it has appeared so many times; within 30 seconds."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        lines = [line for line in log.read_text().splitlines() if words in line]
        if len(lines) >= times:
            return lines[-1]
        time.sleep(0.05)
    raise SystemExit(f"{log.stem} did not start:\n{log.read_text()}")


def report(summary: dict[str, object], results: Path, rejects: Path) -> None:
    """What became of the rows, and why."""
    table = Table(title=None, box=None, pad_edge=False)
    for column in ("rows", "refused", "sealed", "tokenized", "attached", "failed", "unfinished"):
        table.add_column(column, justify="right")
    table.add_row(*(str(summary[column.header]) for column in table.columns))
    console.print(table)
    reasons: Counter[tuple[str, str]] = Counter()
    with rejects.open(newline="") as file:
        reasons.update(("refused before sealing", f"{row['field']}: {row['reason']}") for row in csv.DictReader(file))
    with results.open() as file:
        for row in map(json.loads, file):
            if row.get("failure"):
                failure = row["failure"]
                by = "endpoint" if failure["source"] == "endpoint" else "tokenferry"
                where = "refused by the " + by if not row.get("token") else f"refused by the {by} when spent"
                detail = failure.get("decline_code") or failure.get("param")
                reasons[where, failure["code"] + (f" ({detail})" if detail else "")] += 1
    console.print("\nwhy not all of them:")
    for (where, reason), count in sorted(reasons.items()):
        console.print(f"  {count:3} {where}: {reason}", markup=False)


def ledger_checks(ledger: dict[str, object]) -> Iterator[tuple[str, bool, str]]:
    """What the endpoint itself counted."""
    uses, keys = ledger["uses"], ledger["tokens_by_idempotency_key"]
    assert isinstance(uses, dict)
    assert isinstance(keys, dict)
    yield (
        "every token was used at most once",
        uses["max_per_token"] <= 1,
        f"{ledger['tokens_created']} tokens, {uses['total']} uses, at most {uses['max_per_token']} of one token",
    )
    yield "no request made two tokens", keys["max"] <= 1, f"at most {keys['max']} per idempotency key"
    peaks, calls, refused = ledger["peak_calls_per_second"], ledger["calls"], ledger["rate_limited"]
    assert isinstance(peaks, dict)
    assert isinstance(calls, dict)
    assert isinstance(refused, int)
    tokens, overall = peaks["tokens"], peaks["global"]
    # Calls of a machine that stood still arrive in a heap: the endpoint refuses a few, and they are made again.
    few = refused <= calls["total"] / 100
    within = tokens <= PER_OPERATION + BURST and overall <= OVERALL + BURST and few
    allowed = f"{PER_OPERATION}/s and {OVERALL}/s, and a burst of {BURST}"
    evidence = f"peak {tokens}/s of tokens, {overall}/s in all ({allowed}, allowed), "
    yield "the rate never exceeded its budget", within, evidence + f"{refused} refused with 429"


def secret_checks(house: Path) -> Iterator[tuple[str, bool, str]]:
    """Search everything that was written for the numbers in the file that was imported."""
    secrets = set()
    with ROWS.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for column, value in row.items():
                secret = column.split(".")[-1] in {"number", "account_number", "id_number", "ssn_last_4", "tax_id"}
                # Short values and runs of one digit stand in any file by chance.
                if secret and value and len(value) >= 8 and len(set(value)) > 2:
                    secrets.add(value.replace(" ", "").encode())
    files = [path for path in house.rglob("*") if path.is_file() and "keys" not in path.parts]
    found = {path.name for path in files for content in (path.read_bytes(),) if any(s in content for s in secrets)}
    size = sum(path.stat().st_size for path in files)
    yield (
        "no number of the file is in store, logs or results",
        bool(secrets) and not found,
        f"{len(secrets)} numbers sought in {len(files)} files, {size / 1e6:.1f} MB" + (f": {found}" if found else ""),
    )


def say(what: str, more: str) -> None:
    """One line of what is being started."""
    console.print(f"[bold]{what:16}[/] {more}")


def family(pid: int) -> list[int]:
    """A process and its children."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    return [pid, *(child for child, parent in pairs if parent == pid)]


def alive(pid: int) -> bool:
    """Whether a process of that id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
