"""Outages of the provider: for a while no call to the endpoint succeeds, in the middle of the work; then it is back."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

import httpx
from e2e.house import BrokerKind, until
from faults.facts import ATTEMPTS, TOKEN, Facts
from faults.judging import Verdict
from faults.line import Line
from faults.outage_judging import PROBE, SLACK, Figures, Outage, judge_outage
from faults.plans import keep, stage
from faults.rounds import QUIET
from faults.scene import CONFIGURATION, Scene
from faults.workload import Errand, Mixture, Sender

from tokenferry import Results

ROWS: Final = 2000
SECONDS: Final = 60.0
"""Length of an outage."""
RATE: Final = 100
"""Calls per second of the whole fleet: a busy machine keeps up with that."""
READ_TIMEOUT: Final = 5.0
"""Seconds."""
LIMITED: Final = (
    CONFIGURATION.replace("global_per_second = 10000", f"global_per_second = {RATE}")
    .replace("burst = 50", "burst = 3")
    .replace("read_timeout = 4.0", f"read_timeout = {READ_TIMEOUT}")
)
"""The configuration of a scene of outages."""
OBSERVED: Final = "calls-noted"
"""The mutation of its workers: it changes nothing, and notes each call."""
MIXTURE: Final = Mixture(spent=0.3, refused=0.02, twice=0.05)
BEGUN: Final = 1 / 3
"""Share of the rows that are done when the outage begins."""
FAULTS: Final[Mapping[str, Mapping[str, float]]] = MappingProxyType(
    {
        "refused": {},  # the line in front of the endpoint does it
        "503": {"error_503": 1.0},
        "hang": {"hang": 0.7, "hang_after": 0.3},
        "reset": {"reset_before": 0.5, "reset_after": 0.3, "reset_mid_body": 0.2},
        "poison": {},  # no outage: one row alone is answered with a 500
    }
)
"""What the endpoint does to every call, by the name that `--outages` takes. Some calls take effect and say nothing."""


@dataclass
class OutageReport:
    """What came of one outage."""

    kind: str
    broker: str
    seed: int
    seconds: float
    """How long the outage was."""
    verdict: Verdict
    figures: Figures
    diary: list[str] = field(default_factory=list)


def one_outage(broker: BrokerKind, kind: str, *, rows: int, seconds: float, seed: int, out: Path) -> OutageReport:
    """An outage on a scene of its own; where something was found, its logs are kept in *out*."""
    with stage(broker, seed, mutation=OBSERVED, configuration=LIMITED) as opened:
        report, facts = play_outage(opened, kind, rows=rows, seconds=seconds, seed=seed)
        if report.verdict.findings:
            keep(opened, report.verdict, facts, out / f"outage-{kind}-{broker}-{seed}")
    return report


def play_outage(scene: Scene, kind: str, *, rows: int, seconds: float, seed: int) -> tuple[OutageReport, Facts]:
    """Send *rows* requests, have the endpoint away for *seconds* in the middle, wait until all is done, and judge.

    The scene must be `LIMITED`, and its workers `OBSERVED`. For `poison` the endpoint is never away.
    """
    scene.fresh()
    dice = random.Random(seed)
    route = f"outage-{seed}-{dice.getrandbits(32):08x}"
    errands = list(MIXTURE.errands(rows, route, dice))
    poisonous = frozenset({_in_the_middle(errands)} if kind == "poison" else ())
    address = urlsplit(scene.house.endpoint)
    door = Line((str(address.hostname), int(address.port or 0)))
    try:
        scene.house.configure("outage.toml", endpoint=f"http://127.0.0.1:{door.port}").chmod(0o600)
        _poison(scene, poisonous)
        scene.crew = [scene.hire(config="outage.toml") for _ in range(2)]
        scene.until_ready(*scene.crew)
        with Results(route, scene.house.folder / "tokenferry.toml") as results:
            results.take(0.0)  # declares its queue
        sender = Sender(scene.house.producer, errands, per_second=1.6 * RATE)
        ear = Ear(scene, route)
        sender.start()
        down = back = time.time()
        seen_down = True
        if kind != "poison":
            until(lambda: ear.listen() >= BEGUN * rows, "the first third of the rows", 300.0)
            down, back, seen_down = _outage(scene, door, kind, seconds, ear)
        until(lambda: ear.listen() >= 0 and not sender.is_alive(), "the end of the sender", 300.0)
        assert sender.trouble is None, f"the sender did not end well: {sender.trouble!r}"
        sent = time.time()
        ear.listen_to_all(sender.accepted, sent + 2 * rows / RATE + PROBE + READ_TIMEOUT + SLACK)
        facts = scene.facts(sender.accepted, {}, on_the_way=0 if poisonous else ATTEMPTS)
        scene.diary += _circuits(scene.house.everything_said())
    finally:
        scene.dismiss()
        door.close()
    calls = _calls_between(scene.house.folder / "calls", down, back)
    outage = Outage(down, back, sent, ear.told_at, RATE, READ_TIMEOUT, calls, seen_down, poisonous)
    verdict, figures = judge_outage(facts, outage)
    return OutageReport(kind, scene.kind, seed, back - down, verdict, figures, scene.diary), facts


class Ear:
    """Reads the results of a route, and knows when it first heard of each request."""

    def __init__(self, scene: Scene, route: str) -> None:
        self.told_at: dict[str, float] = {}
        self._scene = scene
        self._route = route

    def listen(self) -> int:
        """Read what is there; how many requests were told so far."""
        before = len(self._scene.told)
        self._scene.listen(self._route)
        now = time.time()
        for result in self._scene.told[before:]:
            self.told_at.setdefault(result.request_id, now)
        return len(self.told_at)

    def listen_until(self, end: float) -> None:
        """Go on reading until *end*, in Unix seconds."""
        while time.time() < end:
            self.listen()
            time.sleep(0.2)

    def listen_to_all(self, accepted: Iterable[str], end: float) -> None:
        """Go on until each was told and the work queues are empty, or until nothing happens any more after *end*."""
        missing, heard, since = set(accepted), -1, time.time()
        while missing:
            self.listen()
            missing -= self.told_at.keys()
            if len(self.told_at) > heard:
                heard, since = len(self.told_at), time.time()
            if time.time() > max(end, since + QUIET):
                break
            time.sleep(0.2)
        try:
            self._scene.house.until_all_is_done(QUIET)
        except AssertionError:
            pass  # what is left is counted
        self.listen()


def _outage(scene: Scene, door: Line, kind: str, seconds: float, ear: Ear) -> tuple[float, float, bool]:
    """Have the endpoint away: from when until when, and whether it was seen to be so at both ends."""
    if kind == "refused":
        door.refuse()
    else:
        scene.house.http.post("/_faults", json=dict(FAULTS[kind])).raise_for_status()
    down = time.time()
    scene.note(f"the endpoint is away: {kind}")
    seen_down = not _answers(door)
    ear.listen_until(down + seconds)
    seen_down = seen_down and not _answers(door)
    back = time.time()
    if kind == "refused":
        door.accept()
    else:
        scene.house.http.delete("/_faults").raise_for_status()
    scene.note(f"the endpoint is back; {len(ear.told_at)} requests were told")
    assert _answers(door), "the endpoint did not come back"
    return down, back, seen_down


def _circuits(said: str) -> list[str]:
    """What the workers have said of circuits: when they opened and closed."""
    return [line for line in said.splitlines() if "circuit '" in line]


def _answers(door: Line) -> bool:
    """Whether a call of ours gets an answer other than a server's error."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{door.port}/v1/tokens/tok_unknown", timeout=2.0)
    except httpx.HTTPError:
        return False
    return answer.status_code < 500


def _poison(scene: Scene, ids: Iterable[str]) -> None:
    """Have the endpoint answer every call for a token of these requests with a 500."""
    lines = [
        {"kind": "error_500_before", "times": 1_000_000, "path": "/v1/tokens", "key": f"tokenferry:{id_}:"}
        for id_ in ids
    ]
    if lines:
        scene.house.http.post("/_faults", json={"script": lines}).raise_for_status()


def _in_the_middle(errands: list[Errand]) -> str:
    """A plain request among the others."""
    plain = [one.id for one in errands if one.wish == TOKEN and one.copies == 1]
    return plain[len(plain) // 2]


def _calls_between(book: Path, start: float, end: float) -> int:
    """Calls that the workers noted in that time, in Unix seconds."""
    lines = book.read_text().split() if book.exists() else []
    return sum(start <= float(line) < end for line in lines)
