"""Onboarding of a file of connected accounts: reads documents, submits them, and records what became of each."""
