"""Bulk import: rows of a CSV or JSONL file in, one line about each of them out, in bounded memory.

`lines` cuts a stream into lines, `csv_rows` and `jsonl_rows` make rows of them, `columns` says what a header means,
`orders` turns a row into an order for the producer, `run` sends orders, `ledger` knows which rows are outstanding.

What every run over a file shares, an onboarding too: `running` feeds and waits, `window` holds what is under way,
`handing` hands it over, `following` reads the results, `outputs` writes them down, `ending` says how it ended.
"""
