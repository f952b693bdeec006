"""The only room that speaks HTTP: one call of Stripe, its answer, and its retries."""
