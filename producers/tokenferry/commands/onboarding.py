"""`tokenferry onboard`: a file of connected accounts in, what became of each out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BufferedReader
from itertools import chain
from typing import Any

import click

from tokenferry.broker.reachability import reach
from tokenferry.bulk.outputs import Outputs
from tokenferry.checks import check_onboarding
from tokenferry.commands.bulk import BulkOptions, end, file_options, patience_options, shown, telling_options
from tokenferry.configuration import Configuration, load
from tokenferry.consuming import Results
from tokenferry.inputs.rows import UnreadableFile
from tokenferry.onboarding.accounts import Accounts, OnboardingCounts
from tokenferry.onboarding.documents import NumberedDocument, documents
from tokenferry.onboarding.run import OnboardingRun, refuse
from tokenferry.onboarding.summary import OnboardingSummary, progress
from tokenferry.producer import Producer
from tokenferry.result_signers import ResultSigners

EPILOG = """
\b
The file
  One JSON object for each account: one in each line (JSONL), or all of them in a JSON array.
    reference          your own id of the account, unique, at most 64 letters, digits, - and _
    account            country, type or controller, email, capabilities, business_profile, settings, metadata
    legal_entity       business_type, company or individual, tos_shown_and_accepted: sealed into an account token.
                       account.tos_acceptance (date, ip) instead of the last is the user's own, not the worker's.
    persons            [{"reference", "person": {...}, "id_number"}]: a person token each; an id_number beside
                       `person` goes into a token of its own
    external_accounts  [{"reference", "bank_account": {...}}] or a debit "card" with its currency
  A company's owners_provided, directors_provided and executives_provided are told last, when all persons are there.

\b
The results file has one line for every account that was sent, readable by its owner only:
  {"key", "row", "request_id", "status", "account", "persons", "external_accounts", "steps", "requirements", "failure"}
  status is complete, incomplete or unfinished; steps says of each what it made or why not.
  requirements names what the endpoint still asks for: an account can be complete here and not be there yet.
  One that is given up on, and redriven while the command runs, gets a second line; the last one counts.
The rejects file has a line (row, key, field, reason) for every reason why an account was not sent.
No file and no message ever repeats a value.

\b
Again
  Run it again with the same file after an interruption, or with corrected documents: steps that are done are not
  done again, whatever the document says of them now; refused ones are tried anew. That is remembered for a year after
  the last run ([store] onboarding_days); later the same reference is a new account. A broker that
  goes away, or a queue or outbox that is full, is waited for; a broker that does not answer at the start ends it.

\b
Exit codes
  0  every account is complete
  1  some account was refused, is incomplete or unfinished, or the broker is away
  2  wrong usage or configuration, or a file that cannot be read; nothing was sent

\b
Examples
  tokenferry onboard accounts.jsonl --results out.jsonl --rejects rejects.csv
  tokenferry onboard accounts.jsonl --dry-run
  jq -c .sellers[] export.json | tokenferry onboard - --results out.jsonl --rejects rejects.csv --json
"""


@click.command("onboard", epilog=EPILOG)
@file_options("account")
@click.option("--platform", metavar="NAME", help="Default: the only one configured.")
@patience_options("Accounts", run="run", window=500, give_up_after=None)
@click.option("--verbose", is_flag=True, help="Report each step of each account.")
@telling_options("account")
@click.pass_context
def onboard(context: click.Context, /, verbose: bool, **options: Any) -> None:
    """Make every connected account of FILE (- for standard input) with its persons and bank accounts.

    Accounts are checked and sealed here; workers make them step by step, each token only when it is spent next, many
    accounts at once and one write at a time on each. A worker may die at any moment: nothing is made twice.

    Ctrl-C stops cleanly: results are taken in for a few seconds more, the rest is listed as unfinished. A second
    Ctrl-C stops at once.
    """
    wanted = BulkOptions(**options)
    wanted.check_outputs("accounts")
    configuration = load(wanted.config)
    name = configuration.meant(wanted.platform)
    with wanted.opened(to_be="read") as stream:
        source = _source(stream, wanted)
        if wanted.dry_run:
            summary = _checked(source, configuration, name, wanted)
        else:
            summary = _onboarded(source, configuration, name, wanted, verbose=verbose)
    end(context, summary, as_json=wanted.as_json)


def _onboarded(
    source: Iterator[NumberedDocument],
    configuration: Configuration,
    platform: str,
    wanted: BulkOptions,
    *,
    verbose: bool,
) -> OnboardingSummary:
    ResultSigners.load(configuration)  # refused before any file is made
    route = f"onboard-{secrets.token_hex(4)}"
    with Producer(configuration) as producer:
        reach(configuration)
        accounts = Accounts()
        results = Results(route, configuration, on_progress=accounts.progress)
        outputs = Outputs(wanted.results, wanted.rejects, force=wanted.force)
        with shown(lambda: progress(accounts), f"results come to route {route}", quiet=wanted.quiet) as telling:
            if verbose:
                accounts.tell = telling.note
            run = OnboardingRun(
                producer,
                results,
                accounts,
                outputs,
                platform=platform,
                patience=wanted.patience,
                note=telling.note,
                progress=verbose or not wanted.quiet,
            )
            try:
                run.run(source)
            finally:
                outputs.close()
    seconds = time.monotonic() - accounts.started
    return OnboardingSummary(
        accounts.counts, seconds, wanted.results, wanted.rejects, route, run.reason, run.last, run.read_all
    )


def _checked(
    source: Iterator[NumberedDocument], configuration: Configuration, platform: str, wanted: BulkOptions
) -> OnboardingSummary:
    started = time.monotonic()
    counts = OnboardingCounts()
    live, today = configuration.platform(platform).live, datetime.now(UTC).date()
    outputs = Outputs(None, wanted.rejects, force=wanted.force)
    try:
        for item in source:
            counts.read += 1
            found = item.problems
            if item.document is not None:
                found = check_onboarding(item.document, today=today, live=live)
            if found:
                refuse(item, found, counts, outputs)
    finally:
        outputs.close()
    return OnboardingSummary(counts, time.monotonic() - started, None, wanted.rejects, None)


def _source(stream: BufferedReader, wanted: BulkOptions) -> Iterator[NumberedDocument]:
    """The documents; that the file is none at all is found out before anything is opened or sent."""
    source = documents(stream)
    try:
        first = next(source, None)
    except (UnreadableFile, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UnreadableFile(f"{wanted.file_name}: {reason}") from None
    if first is None:
        raise UnreadableFile(f"{wanted.file_name}: the file is empty")
    return chain([first], source)
