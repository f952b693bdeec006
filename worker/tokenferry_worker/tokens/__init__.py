"""One token: created once, spent once, and reconciled with Stripe when an answer was lost."""
