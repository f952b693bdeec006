"""The rate of calls: budgets, permits, and how far tokenizing may be ahead of attaching."""
