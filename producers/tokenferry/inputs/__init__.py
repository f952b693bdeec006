"""Reads files, lines, rows and JSON objects, and turns them into orders."""
