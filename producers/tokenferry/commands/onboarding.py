"""`tokenferry onboard`: creates the connected accounts of a file, and writes what became of each."""

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
from tokenferry.bulk.progress import counted
from tokenferry.bulk.waiting import WaitingReasons
from tokenferry.checks import check_onboarding
from tokenferry.commands.bulk import CTRL_C, BulkOptions, end, file_options, output_options, patience_options, shown
from tokenferry.configuration import Configuration, load
from tokenferry.consuming import Results
from tokenferry.inputs.rows import UnreadableFile
from tokenferry.onboarding.accounts import Accounts, OnboardingCounts
from tokenferry.onboarding.documents import NumberedDocument, documents
from tokenferry.onboarding.results_file import complete_in
from tokenferry.onboarding.run import OnboardingRun, reject
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
                       Instead of the last field, account.tos_acceptance holds the date and IP of the user's consent.
    persons            [{"reference", "person": {...}, "id_number"}]: a person token each; an id_number beside
                       `person` becomes a token of its own
    external_accounts  [{"reference", "bank_account": {...}}] or a debit "card" with its currency
  A company's owners_provided, directors_provided and executives_provided are set last, after all persons.

\b
The results file has one line for every account that was sent, readable by its owner only:
  {"key", "row", "request_id", "status", "account", "persons", "external_accounts", "steps", "requirements", "failure"}
  status is complete, declined (Stripe refused a step), failed (for a reason of ours) or pending.
  steps lists what each step created, or why it failed.
  requirements lists what Stripe still needs: an account can be complete here, and Stripe still asks for information.
  A failed account that is redriven while the command runs gets a second line; the last line counts.
The rejects file has a line (row, key, field, reason) for every reason why an account was rejected (not sent).
No file and no message ever repeats a value.

\b
Running it again
  Run it again with the same file and --resume after an interruption (Ctrl-C, kill -9), or with corrected documents.
  Complete accounts keep their line and are not sent. All others are sent again, so outcomes that came late are in the
  results then. Without --resume, all accounts are sent. In both cases steps that are done are not done again, even if
  their part of the document changed. Failed steps are tried again. The steps are remembered for a year after the last
  run ([store] onboarding_days); after that the same reference is a new account. The command waits if the broker goes
  away, or a queue or the outbox is full. It ends if the broker does not answer at the start.

\b
Exit codes
  0  every account is complete
  1  some account was rejected, is incomplete or unfinished, or the broker is away
  2  wrong usage or configuration, or a file that cannot be read; nothing was sent

\b
Examples
  tokenferry onboard accounts.jsonl --results out.jsonl --rejects rejects.csv
  tokenferry onboard accounts.jsonl --dry-run
  jq -c .sellers[] export.json | tokenferry onboard - --results out.jsonl --rejects rejects.csv --json
"""


@click.command("onboard", epilog=EPILOG)
@file_options("account")
@click.option(
    "--resume", is_flag=True, help="Keep the results of complete accounts, and send the others again. See below."
)
@click.option("--platform", metavar="NAME", help="Default: the only one configured.")
@patience_options("Accounts", run="run", window=500, give_up_after=None)
@click.option("--verbose", is_flag=True, help="Report each step of each account.")
@output_options("account")
@click.pass_context
def onboard(context: click.Context, /, verbose: bool, resume: bool, **options: Any) -> None:
    """Create every connected account of FILE (- for standard input) with its persons and bank accounts.

    Accounts are checked and sealed here. Workers create them step by step: many accounts at once, and on each account
    one write at a time. Each token is created right before it is used. A worker may die at any moment: nothing is
    created twice.

    Ctrl-C stops cleanly: results are read for a few seconds more, and the rest is listed as pending. A second
    Ctrl-C stops at once.
    """
    run_options = BulkOptions(**options)
    run_options.check_outputs("accounts")
    if resume and (run_options.dry_run or run_options.force):
        raise click.UsageError("--resume keeps the results file: it cannot be used with --dry-run or --force")
    configuration = load(run_options.config)
    platform = configuration.meant(run_options.platform)
    with run_options.opened(to_be="read") as stream:
        source = _documents(stream, run_options)
        if run_options.dry_run:
            summary = _check(source, configuration, platform, run_options)
        else:
            summary = _onboard(source, configuration, platform, run_options, verbose=verbose, resume=resume)
    end(context, summary, as_json=run_options.as_json)


def _onboard(
    source: Iterator[NumberedDocument],
    configuration: Configuration,
    platform: str,
    options: BulkOptions,
    *,
    verbose: bool,
    resume: bool,
) -> OnboardingSummary:
    ResultSigners.load(configuration)  # refused before any file is made
    route = f"onboard-{secrets.token_hex(4)}"
    with Producer(configuration) as producer:
        reach(configuration)
        accounts = Accounts()
        done = complete_in(options.results, accounts.counts) if resume and options.results is not None else set()
        outputs = Outputs(options.results, options.rejects, force=options.force, resume=resume)
        notes = [f"results come to route {route}", f"{CTRL_C}; continue with the same command and --resume"]
        if resume:
            notes.insert(0, f"resuming: {counted(len(done), 'account')} complete already")
        reasons = WaitingReasons(lambda text: display.note(text))
        with shown(lambda: progress(accounts, reasons), *notes, quiet=options.quiet) as display:
            if verbose:
                accounts.report = display.note
            results = Results(route, configuration, on_progress=accounts.progress, on_notice=reasons.take)
            run = OnboardingRun(
                producer,
                results,
                accounts,
                outputs,
                platform=platform,
                done=done,
                limits=options.limits,
                note=display.note,
                progress=verbose or not options.quiet,
            )
            try:
                run.run(source)
            finally:
                outputs.close()
    seconds = time.monotonic() - accounts.started
    return OnboardingSummary(
        accounts.counts, seconds, options.results, options.rejects, route, run.reason, run.last, run.read_all
    )


def _check(
    source: Iterator[NumberedDocument], configuration: Configuration, platform: str, options: BulkOptions
) -> OnboardingSummary:
    """A dry run: check every document, and send nothing."""
    started = time.monotonic()
    counts = OnboardingCounts()
    live, today = configuration.platform(platform).live, datetime.now(UTC).date()
    outputs = Outputs(None, options.rejects, force=options.force)
    try:
        for item in source:
            counts.read += 1
            problems = item.problems
            if item.document is not None:
                problems = check_onboarding(item.document, today=today, live=live)
            if problems:
                reject(item, problems, counts, outputs)
    finally:
        outputs.close()
    return OnboardingSummary(counts, time.monotonic() - started, None, options.rejects, None)


def _documents(stream: BufferedReader, options: BulkOptions) -> Iterator[NumberedDocument]:
    """Read the documents. A file without any raises `UnreadableFile` now, before anything is opened or sent."""
    source = documents(stream)
    try:
        first = next(source, None)
    except (UnreadableFile, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UnreadableFile(f"{options.file_name}: {reason}") from None
    if first is None:
        raise UnreadableFile(f"{options.file_name}: the file is empty")
    return chain([first], source)
