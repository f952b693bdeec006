"""The only room that speaks HTTP: one call, its answer, and its retries."""
