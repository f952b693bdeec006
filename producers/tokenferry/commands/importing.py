"""`tokenferry import`: a file of rows in, a results file and a rejects file out."""

from __future__ import annotations

from typing import Any

import click

from tokenferry.commands.bulk import end, file_options, patience_options, telling_options
from tokenferry.commands.import_run import DELIMITERS, ImportOptions, ImportRun
from tokenferry.configuration import load
from tokenferry.contract.names import LANES
from tokenferry.importing.repeats import refuse_to_attach_again
from tokenferry.inputs.columns import known_names
from tokenferry.inputs.orders import KINDS

EPILOG = """
\b
The file
  CSV with a header line, or JSONL (one JSON object in each line). Columns:
    key                  your own id of the row, unique; without such a column the row is called row-N,
                         N being its line in the file
    kind                 card, bank_account, pii, account, person or cvc_update (or --kind for all rows)
    number, exp_month    fields of the kind by name, dotted where nested: individual.dob.day;
                         card.number is the same as number, and never taken for another kind
    attach.to            what to spend the token on: customer_create, payment_method, charge, ...;
                         its fields beside it: attach.email, attach.customer, attach.metadata.order
    platform, connected_account, lane
  An empty cell is a field that is not given. All names there are: tokenferry import --columns
  In JSONL fields may also be nested: {"key": "7", "kind": "card", "card": {...}, "attach": {...}}

\b
The results file has one line for every row that was sent, readable by its owner only:
  {"key", "row", "request_id", "kind", "status", "token", "created", "object_id", "stored_id", "display", "failure"}
  status is tokenized, attached, failed or unfinished. Join it to your file by key.
  A key that could be a card number is shortened to its last four digits; then join by row.
The rejects file has a line (row, key, field, reason) for every reason why a row was not sent.
No file and no message ever repeats a value.

\b
An import that was interrupted, by Ctrl-C, a power cut or kill -9, goes on with the same command and --resume: rows that
have a result are not sent again, the others keep their request id, and in the end the results file has one line for
each. OUT.jsonl.resume, beside the results, is what it needs for that; it goes when the import is complete. A broker
that goes away, or a queue that is full, is waited for; a broker that does not answer at the start ends it.

\b
A second import of the same file is another import: every row gets another token, and is attached once more. So --force
does not overwrite a results file with rows that are attached, or that cannot be read; --force --again does. Only the
file named as --results is looked at: what an earlier import has left in another place is not known here.

\b
Exit codes
  0  every row has its token (and its attached object)
  1  some row was refused, failed or is unfinished, or the broker is away
  2  wrong usage or configuration, or a file that cannot be imported; nothing was sent

\b
Examples
  tokenferry import onboarding.csv --results out.jsonl --rejects rejects.csv
  tokenferry import cards.csv --kind card --map "Card No=number" --map "Notes=" \\
      --results out.jsonl --rejects rejects.csv
  tokenferry import onboarding.csv --results out.jsonl --rejects rejects.csv --resume
  export-rows | tokenferry import - --format jsonl --results out.jsonl --rejects rejects.csv --json
"""


def _show_columns(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo("\n".join(known_names()))
        context.exit()


@click.command("import", epilog=EPILOG)
@file_options("row")
@click.option(
    "--resume", is_flag=True, help="Continue an interrupted import. Starts a new one if there is nothing to continue."
)
@click.option("--again", is_flag=True, help="With --force: attach rows a second time that are attached already.")
@click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="COLUMN=FIELD",
    help='What a column means; "COLUMN=" leaves it out. Repeatable.',
)
@click.option("--format", "format_", type=click.Choice(["csv", "jsonl"]), help="Default: by the file's name, else CSV.")
@click.option("--delimiter", type=click.Choice([*DELIMITERS]), help="Default: found in the header.")
@click.option("--kind", type=click.Choice(KINDS), help="Token type of rows without a `kind` column.")
@click.option("--platform", metavar="NAME", help="The platform of rows that name none. Default: the only one.")
@click.option("--connected-account", metavar="ID", help="The connected account of rows that name none.")
@click.option("--lane", type=click.Choice(LANES), help="Default: bulk; realtime where a CVC is carried.")
@patience_options("Rows", run="import", window=2000, give_up_after=86_400.0)
@telling_options("row")
@click.option(
    "--columns",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_columns,
    help="List every column name there is.",
)
@click.pass_context
def import_(context: click.Context, /, **options: Any) -> None:
    """Tokenize every row of FILE (- for standard input), and attach the tokens of rows that ask for it.

    Rows are checked, sealed and handed to the broker here; workers tokenize them at the account's rate. The file is
    read as fast as that goes on: at most --window rows are under way, so memory stays small however long it is.

    Ctrl-C stops cleanly: results are taken in for a few seconds more, the rest is listed as unfinished, and --resume
    goes on with it. A second Ctrl-C stops at once.
    """
    wanted = ImportOptions(**options)
    wanted.check_outputs("rows")
    if wanted.resume and (wanted.file == "-" or wanted.dry_run or wanted.force):
        raise click.UsageError("--resume goes on with a file: not with standard input, --dry-run or --force")
    if wanted.again and not wanted.force:
        raise click.UsageError("--again says what --force may overwrite: give both, or neither")
    configuration = load(wanted.config)
    if wanted.platform is not None:
        configuration.platform(wanted.platform)
    configuration.need_platform()
    with wanted.opened(to_be="imported") as stream:
        if wanted.force and not (wanted.again or wanted.dry_run) and wanted.results is not None:
            refuse_to_attach_again(wanted.results)
        run = ImportRun(wanted, configuration, stream)
        summary = run.check() if wanted.dry_run else run.run()
    end(context, summary, as_json=wanted.as_json)
