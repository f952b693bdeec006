"""One token: created once, spent once, and looked into when an answer was lost."""
