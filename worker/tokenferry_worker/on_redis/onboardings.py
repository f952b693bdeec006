"""Records of onboardings: for each step the object made, or the failure. Kept far longer than outcomes are."""

from __future__ import annotations

from tokenferry_worker.on_redis.store import Script, Store


class RedisOnboardings:
    """Implements `onboarding.progress.OnboardingStore` for every platform."""

    def __init__(self, store: Store, *, days: float) -> None:
        """*days*: how long an onboarding is kept after its last use."""
        self._store = store
        self._ttl_ms = int(days * 86_400_000)
        self._look = Script("onboarding_look")
        self._note = Script("onboarding_note")

    async def records(self, platform: str, onboarding_id: str) -> dict[str, str]:
        """Return the records, as JSON, by step name."""
        flat = await self._store.run(self._look, [self._key(platform, onboarding_id)], [self._ttl_ms])
        return dict(zip(flat[::2], flat[1::2], strict=True))

    async def record(self, platform: str, onboarding_id: str, step: str, entry: str) -> str:
        """Write *entry* unless the step is done already. Return the one that counts."""
        key = self._key(platform, onboarding_id)
        return str(await self._store.run(self._note, [key], [step, entry, self._ttl_ms]))

    def _key(self, platform: str, onboarding_id: str) -> str:
        return self._store.keys.onboarding(platform, onboarding_id)
