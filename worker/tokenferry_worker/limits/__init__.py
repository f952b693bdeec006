"""The rate: budgets, permits, and how far tokenizing may run ahead of attaching."""
