"""A stateful, Stripe-compatible endpoint for demos, tests and benchmarks."""

from __future__ import annotations

from tokenferry_emulator.app import create_app
from tokenferry_emulator.settings import Settings
from tokenferry_emulator.world import EmulatorState

__all__ = ["EmulatorState", "Settings", "create_app"]
