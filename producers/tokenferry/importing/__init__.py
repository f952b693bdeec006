"""Bulk import: reads rows of a CSV or JSONL file, and writes one line for each of them, in bounded memory.

`row_checks` turns rows into orders or rejects them, `run` sends the orders, `import_window` knows which rows have no
outcome, `checkpoint` lets an interrupted import continue. The folder `inputs` reads the file, and `bulk` holds what
imports and onboardings share.
"""
