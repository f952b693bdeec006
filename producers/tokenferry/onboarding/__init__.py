"""Onboarding a file of connected accounts: documents in, a window of them under way, what became of each out."""
