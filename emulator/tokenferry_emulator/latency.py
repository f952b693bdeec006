"""How long the endpoint takes: a fixed time, or times measured on the real one."""

from __future__ import annotations

import random

from tokenferry_emulator.settings import Settings

MEASURED = {
    "POST /v1/tokens": (510.0, 616.0, 1071.0),
    "GET /v1/tokens/:id": (329.0, 405.0, 536.0),
    "POST /v1/customers": (850.0, 948.0, 1247.0),
    "POST /v1/payment_methods": (503.0, 641.0, 1228.0),
    "POST /v1/payment_methods/:id/attach": (897.0, 983.0, 1260.0),
    "POST /v1/payment_intents": (1192.0, 1409.0, 2409.0),
    "POST /v1/payment_intents/:id/confirm": (1216.0, 1591.0, 2147.0),
    "POST /v1/accounts": (3705.0, 4851.0, 6052.0),
    "POST /v1/accounts/:id": (4040.0, 11522.0, 15000.0),
    "POST /v1/accounts/:id/persons": (3646.0, 9865.0, 21194.0),
    "POST /v1/accounts/:id/persons/:id": (3646.0, 9865.0, 21194.0),
}
"""Milliseconds at p50, p90 and p99, from SDK telemetry in recordings of one company in test mode, 2023-24."""
_OTHERS = (500.0, 640.0, 1200.0)


def seconds(settings: Settings, endpoint: str, dice: random.Random) -> float:
    """Return the seconds to wait before one call has its effect."""
    milliseconds = settings.latency_ms
    if settings.sampled_latency:
        milliseconds += _sample(MEASURED.get(endpoint, _OTHERS), dice.random())
    if endpoint.startswith("POST /v1/accounts"):
        milliseconds += settings.connect_latency_ms
    return milliseconds / 1000.0


def _sample(quantiles: tuple[float, float, float], at: float) -> float:
    """Milliseconds at the quantile *at*, straight lines between the known ones.

    >>> _sample((500.0, 600.0, 1000.0), 0.5)
    500.0
    """
    p50, p90, p99 = quantiles
    if at <= 0.5:
        return p50 * (0.8 + 0.4 * at)
    if at <= 0.9:
        return p50 + (p90 - p50) * (at - 0.5) / 0.4
    return p90 + (p99 - p90) * (at - 0.9) / 0.09
