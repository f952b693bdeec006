"""Records of onboardings: for each step the object made, or the failure. Kept far longer than outcomes are."""

from __future__ import annotations

from collections.abc import Mapping

from tokenferry_worker.keys.state_tags import StateTags, untagged
from tokenferry_worker.on_redis.store import Script, Store


class RedisOnboardings:
    """Implements `onboarding.progress.OnboardingStore` for every platform."""

    def __init__(self, store: Store, *, days: float, tags: StateTags | None = None) -> None:
        """*days*: how long an onboarding is kept after its last use. *tags*: None: records have none."""
        self._store = store
        self._tags = tags or untagged()
        self._ttl_ms = int(days * 86_400_000)
        self._look = Script("onboarding_look")
        self._note = Script("onboarding_note")
        self._adopt = Script("onboarding_adopt")

    async def records(self, platform: str, onboarding_id: str) -> dict[str, str | None]:
        """Return the records, as JSON, by step name. None: the record was not written by a worker."""
        names = self._names(platform, onboarding_id)
        records, tags = map(_pairs, await self._store.run(self._look, names, [self._ttl_ms]))
        return {
            step: record if self._is_authentic(names[0], step, record, tags.get(step, "")) else None
            for step, record in records.items()
        }

    async def record(self, platform: str, onboarding_id: str, step: str, entry: str) -> str:
        """Write *entry* unless the step is done already. Return the one that counts.

        A record that no worker wrote never counts: it is replaced.
        """
        names = self._names(platform, onboarding_id)
        tag, replaced = self._tags.tag("onboarding step", names[0], step, entry), ""
        while True:
            args = [step, entry, tag, self._ttl_ms, replaced]
            counts, its_tag = await self._store.run(self._note, names, args)
            if counts == entry or self._is_authentic(names[0], step, counts, its_tag):
                return str(counts)
            replaced = counts

    async def adopt(self) -> None:
        """Give every record of the version before a tag, while entries without one are believed.

        They live far longer than that.
        """
        if not self._tags.verifies:
            return
        prefix = self._store.keys.onboarding("", "").removesuffix(":")
        async for name in self._store.names(f"{prefix}*"):
            platform, _, onboarding_id = name.removeprefix(prefix).rpartition(":")
            names = self._names(platform, onboarding_id)
            records, tags = map(_pairs, await self._store.run(self._look, names, [""]))
            bare = {step: record for step, record in records.items() if step not in tags}
            args = [
                part
                for step, record in bare.items()
                for part in (step, record, self._tags.tag("onboarding step", name, step, record))
            ]
            if args:
                await self._store.run(self._adopt, names, args)

    def _is_authentic(self, name: str, step: str, record: str, tag: str) -> bool:
        if self._tags.is_authentic(tag, "onboarding step", name, step, record):
            return True
        self._tags.refuse(f"{name} ({step})")
        return False

    def _names(self, platform: str, onboarding_id: str) -> list[str]:
        keys = self._store.keys
        return [keys.onboarding(platform, onboarding_id), keys.onboarding_tags(platform, onboarding_id)]


def _pairs(flat: list[str]) -> Mapping[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
