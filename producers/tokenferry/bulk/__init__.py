"""What every bulk run shares: reading, sealing, sending, following results, progress and summaries."""
