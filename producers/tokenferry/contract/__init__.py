"""What the two halves say to each other: messages, queue names, failure codes.

The leaf of the house. It imports pydantic and the standard library, nothing else, so whatever reads it learns
the whole conversation and none of the machinery.
"""
