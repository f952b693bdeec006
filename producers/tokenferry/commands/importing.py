"""`tokenferry import`: reads a file of rows, and writes a results file and a rejects file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import click

from tokenferry.bulk.outputs import may_be_card_number
from tokenferry.commands.bulk import PATH, end, file_options, output_options, patience_options
from tokenferry.commands.import_run import (
    DELIMITERS,
    ImportOptions,
    ImportRun,
    refreshed,
    write_products,
    write_suggested_map,
)
from tokenferry.configuration import load
from tokenferry.contract.names import LANES
from tokenferry.importing.products import ALL
from tokenferry.importing.repeats import refuse_to_attach_again
from tokenferry.importing.run import SAME_FAILURES
from tokenferry.inputs.describing import described
from tokenferry.inputs.mapping import READY
from tokenferry.inputs.orders import KINDS

_WORD: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

EPILOG = """
\b
The file
  CSV with a header line, or JSON (one object in each line, or an array). gzip is unpacked. Columns:
    key                  your own id of the row, unique: what is done once under this key is not done again. Without
                         this column the key is row-N, N is the line, and the file cannot be repeated safely
    kind                 card, bank_account, pii, account, person or cvc_update (or --kind for all rows)
    number, exp_month    fields of the kind by name, dotted where nested: individual.dob.day;
                         card.number is the same as number, and never taken for another kind
    attach.to            what to use the token for: customer_create, payment_method, charge, ...;
                         with its fields: attach.email, attach.customer, attach.metadata.order
    platform, connected_account, lane
    expiry               04/28, 0428, 2028-04 or Apr-28, instead of exp_month and exp_year
    first_name, last_name   become the name of the card or the account's holder
  An empty cell is a field that is not given. All column names, by kind and target: tokenferry import --columns
  In JSONL fields may also be nested: {"key": "7", "kind": "card", "card": {...}, "attach": {...}}

\b
The results file has one line for every row that was sent, readable by its owner only:
  {"key", "row", "request_id", "kind", "status", "token", "created", "object_id", "stored_id", "display", "failure"}
  status is attached, tokenized, declined (by Stripe), failed (for a reason of ours) or pending. Join it by key.
  A row whose key could be a card number is rejected. If your ids look like that (one number in ten does), say so with
  --key-prefix seller-; the outputs show the key behind it.
The rejects file has a line for every reason why a row was rejected (not sent): row, key, field, reason, record.
  row is the line of the file, record counts the rows without the header.
No file and no message ever repeats a value.

\b
Try first: --dry-run sends nothing. It shows what is in the file, what is wrong with it (with line numbers), the first
row as it is understood, and how long the import will take. Then send a few rows with --limit 10, look at the results,
and send the rest with the same command and --resume instead of --limit.

\b
After an interruption (Ctrl-C, a power cut, kill -9) continue with the same command and --resume. Rows that have a
result are not sent again, the others keep their request id. In the end the results file has one line for each row.
The import needs the file OUT.jsonl.resume for that, and keeps it, so that it can be repeated. It waits if the broker
goes away, or a queue is full. It ends if the broker does not answer at the start.

\b
A finished import: --resume says that it is finished. --retry-failed sends rows again whose failure left nothing
behind; dead letters are redriven instead. --refresh writes outcomes that came late. --ids-out writes a
line for every row of the file (source_id,stripe_id), and --manifest the SHA-256 of all outputs.

\b
The same file again (other --results, or --force) does nothing twice: workers remember the outcome of each key for
[store] journal_days (7) after it was last asked for. Rows that were done before get that outcome.
A row that was declined, or failed and left nothing behind, may be corrected: it is then sent again. A row that was done
with other content fails with request_id_reused: give it a new key. The same keys again on purpose: another --namespace,
or --again. Rows that move money (attach.to charge, payment_intent, topup) need a --namespace, for instance the month.
Rows without a key are done once more by each import. So --force does not overwrite a results file with attached rows of
that kind, nor lines that cannot be read; --force --again does.

\b
Exit codes
  0  every row has its token (and its attached object), or the import was finished already
  1  some row was rejected, failed or is unfinished, or the broker is away
  2  wrong usage or configuration, or a file that cannot be imported; nothing was sent

\b
Examples
  tokenferry import onboarding.csv --results out.jsonl --rejects rejects.csv
  tokenferry import cards.csv --kind card --map "Card No=number" --map "Notes=" \\
      --results out.jsonl --rejects rejects.csv
  tokenferry import onboarding.csv --results out.jsonl --rejects rejects.csv --resume
  tokenferry import vault.csv --suggest-map map.toml
  tokenferry import vault.csv --map-file map.toml --set attach.to=customer_create --dry-run
  export-rows | tokenferry import - --format jsonl --results out.jsonl --rejects rejects.csv --json
  gpg --decrypt cards.csv.gpg | tokenferry import - --results out.jsonl --rejects rejects.csv
"""


def _show_columns(context: click.Context, _: click.Parameter, is_set: bool) -> None:
    if is_set:
        click.echo("\n".join(described()))
        context.exit()


def _ids_columns(context: click.Context, _: click.Parameter, text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := [name for name in names if name not in ALL]:
        raise click.BadParameter(f"{', '.join(unknown)}: no such column; choose from {', '.join(ALL)}")
    return names


def _namespace(context: click.Context, _: click.Parameter, text: str | None) -> str | None:
    if text is not None and (_WORD.fullmatch(text) is None or may_be_card_number(text)):
        raise click.BadParameter("must be letters, digits, dots, - and _, at most 64, and no card number")
    return text


def _key_prefix(context: click.Context, _: click.Parameter, text: str) -> str:
    if text and (_WORD.fullmatch(text) is None or not text[0].isalpha()):
        raise click.BadParameter("must begin with a letter; then letters, digits, dots, - and _, at most 64")
    return text


@click.command("import", epilog=EPILOG)
@file_options("row")
@click.option(
    "--resume", is_flag=True, help="Continue an interrupted import. Starts a new one if there is nothing to continue."
)
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Send rows again whose failure left nothing behind. Continues the import too.",
)
@click.option(
    "--refresh",
    is_flag=True,
    help="Send nothing: write outcomes that came late (after a redrive) into the results file.",
)
@click.option(
    "--ids-out", type=PATH, metavar="OUT.csv", help="Write source_id,stripe_id of every row to this file. See below."
)
@click.option(
    "--ids-columns",
    callback=_ids_columns,
    metavar="NAME,...",
    default="",
    help=f"Further columns of that file: {', '.join(ALL)}.",
)
@click.option(
    "--manifest", type=PATH, metavar="OUT.json", help="Write the size and SHA-256 of all outputs, and counts."
)
@click.option("--again", is_flag=True, help="Do rows once more that were done before, under the same keys.")
@click.option(
    "--namespace",
    callback=_namespace,
    metavar="NAME",
    help="What the keys belong to, for instance 2030-01. The same key in another one is another row.",
)
@click.option(
    "--key-prefix",
    callback=_key_prefix,
    default="",
    metavar="TEXT",
    help="The keys are no card numbers, even if some look so: show them behind this word, as in seller-7.",
)
@click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="COLUMN=FIELD",
    help='The field of a column; "COLUMN=" leaves the column out; "#3" is the third column. Repeatable.',
)
@click.option(
    "--map-file",
    metavar="MAP.toml",
    help=f"Read columns, constants and other words for values from this file. Ready ones: {', '.join(READY)}.",
)
@click.option(
    "--suggest-map",
    type=PATH,
    metavar="MAP.toml",
    help="Guess the fields of the columns, write a map file, and end.",
)
@click.option(
    "--set",
    "constants",
    multiple=True,
    metavar="FIELD=VALUE",
    help="A value for all rows that give none: attach.to=customer_create. Repeatable.",
)
@click.option("--leave-out-rest", is_flag=True, help="Leave out all columns that are neither a field nor mapped.")
@click.option(
    "--null",
    multiple=True,
    metavar="WORD",
    help=r'A value that stands for "no value", as \N always does. "" says that there is none. Repeatable.',
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["csv", "jsonl"]),
    help="Default: by the file's name and content. jsonl also reads JSON arrays.",
)
@click.option(
    "--encoding",
    metavar="NAME",
    help="Default: UTF-8, or UTF-16 if the file shows it. Others: cp1252, latin-1, shift_jis, ...",
)
@click.option("--delimiter", type=click.Choice([*DELIMITERS]), help="Default: detected in the header.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Read only the first N rows. See --resume.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Read only N rows from all over the file.")
@click.option(
    "--max-failures",
    type=click.IntRange(min=0),
    metavar="N",
    help="Stop when N rows have failed; 0 never stops. Default: stop if the first "
    f"{SAME_FAILURES} outcomes are all the same failure.",
)
@click.option("--kind", type=click.Choice(KINDS), help="Token type of rows without a `kind` column.")
@click.option("--platform", metavar="NAME", help="Platform of rows that name none. Default: the only one.")
@click.option("--connected-account", metavar="ID", help="Connected account of rows that name none.")
@click.option("--lane", type=click.Choice(LANES), help="Default: bulk; realtime for rows with a CVC.")
@patience_options("Rows", run="import", window=2000, give_up_after=86_400.0)
@output_options("row")
@click.option(
    "--columns",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_columns,
    help="List all column names.",
)
@click.pass_context
def import_(context: click.Context, /, **options: Any) -> None:
    """Tokenize every row of FILE (- for standard input), and attach the tokens of rows with an attach.to.

    Rows are checked, sealed and sent to the broker here. Workers tokenize them at the account's rate. The file is read
    at the same speed: at most --window rows are without an outcome at once, so even a long file needs little memory.

    Ctrl-C stops cleanly: results are read for a few seconds more, and the rest is listed as pending. --resume
    continues with it. A second Ctrl-C stops at once.
    """
    suggested: Path | None = options.pop("suggest_map")
    run_options = ImportOptions(**options)
    if suggested is not None:
        write_suggested_map(run_options, suggested)
        return
    run_options.check_outputs("rows")
    run_options.check_repeat()
    run_options.check_products()
    if run_options.limit is not None and run_options.sample is not None:
        raise click.UsageError("give --limit or --sample, not both")
    configuration = load(run_options.config)
    if run_options.platform is not None:
        configuration.platform(run_options.platform)
    configuration.need_platform()
    if run_options.refresh:
        summary = refreshed(run_options, configuration)
        write_products(run_options, summary)
        end(context, summary, as_json=run_options.as_json)
    with run_options.opened(to_be="imported") as stream:
        run = ImportRun(run_options, configuration, stream)
        if run_options.force and not (run_options.again or run_options.dry_run) and run_options.results is not None:
            refuse_to_attach_again(run_options.results, by_key=run.has_keys)
        summary = run.check() if run_options.dry_run else run.run()
    write_products(run_options, summary)
    end(context, summary, as_json=run_options.as_json)
