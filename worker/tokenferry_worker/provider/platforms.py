"""One platform as a worker sees it: its client, its budgets and its mode."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tokenferry_worker.circuits.outages import UnansweredCalls
from tokenferry_worker.limits.budgets import Budgets
from tokenferry_worker.provider.protocol import ProviderClient
from tokenferry_worker.provider.second_opinion import SecondOpinion


@dataclass
class PlatformContext:
    """One platform as a worker sees it: where to call, and with which budgets. One per process and platform."""

    name: str
    client: ProviderClient
    budgets: Budgets
    live: bool
    unanswered: UnansweredCalls = field(default_factory=UnansweredCalls)
    second_opinion: SecondOpinion = field(default_factory=SecondOpinion)

    @property
    def host(self) -> str:
        """The host that its calls go to."""
        return urlsplit(self.budgets.platform.base_url).netloc


def mode_of(platform: PlatformContext) -> str:
    """Return the ledger's name for the mode of a platform."""
    return "live" if platform.live else "test"
