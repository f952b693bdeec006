"""What a permit costs, and whether an endpoint would accept the calls: our limiter beside three others, in one run.

Two processes with 20 waiters each share a limit of 100 calls per second in one Valkey for some seconds. Each limiter is
used as its documentation says for waiting, with a burst of 5 where it knows one. The times of the permits are then held
against a token bucket of exactly that rate with a burst of 5, as the endpoint has: `refused` is the share it
would answer with 429. CPU is of the two processes, Redis time and scripts run are the server's own count.

    pip install -r bench/limiters.txt
    python -m bench.limiters [--seconds 8] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis
from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from pyrate_limiter import Duration, Limiter, Rate, RedisBucket
from redis.asyncio import Redis
from throttled import per_sec
from throttled.asyncio import RedisStore, Throttled

from tokenferry.broker import embedded
from tokenferry_worker.limits.pacing import Budget
from tokenferry_worker.on_redis.limiter import RedisLimiter
from tokenferry_worker.on_redis.store import Store

RATE, BURST, PROCESSES, WAITERS = 100, 5, 2, 20
Acquire = Callable[[], Awaitable[object]]


async def ours(url: str) -> Acquire:
    """`RedisLimiter` with two budgets at once, as every call has: the platform's and the endpoint's."""
    limiter = RedisLimiter(Store.at(url, "ours"))
    budgets = (Budget("global", 4 * RATE, 3), Budget("endpoint", RATE, 3))

    async def acquire() -> None:
        async with limiter.permit(budgets, "bulk"):
            pass

    return acquire


async def limits(url: str) -> Acquire:
    """`limits`: moving window; who is refused sleeps until the window says there is room."""
    limiter = MovingWindowRateLimiter(RedisStorage(f"async+{url}", implementation="redispy"))
    rate = RateLimitItemPerSecond(RATE)

    async def acquire() -> None:
        while not await limiter.hit(rate, "tokens"):
            window = await limiter.get_window_stats(rate, "tokens")
            await asyncio.sleep(max(0.001, window.reset_time - time.time()))

    return acquire


async def pyrate_limiter(url: str) -> Acquire:
    """`pyrate-limiter`: a Redis bucket, waiting inside the library."""
    bucket = await RedisBucket.init([Rate(RATE, Duration.SECOND)], Redis.from_url(url), "pyrate")
    limiter = Limiter(bucket)
    return lambda: limiter.try_acquire_async("tokens")


async def throttled_py(url: str) -> Acquire:
    """`throttled-py`: GCRA with a burst of 5, waiting inside the library."""
    throttle = Throttled(
        key="tokens", using="gcra", quota=per_sec(RATE, burst=BURST), store=RedisStore(server=url), timeout=60
    )
    return throttle.limit


LIMITERS = {"ours": ours, "limits": limits, "pyrate-limiter": pyrate_limiter, "throttled-py": throttled_py}


async def child(name: str, url: str, seconds: float) -> None:
    """One process: its waiters take permits until the time is up; prints when, and the CPU seconds."""
    acquire = await LIMITERS[name](url)
    taken: list[float] = []
    cpu, end = time.process_time(), time.time() + seconds

    async def waiter() -> None:
        while time.time() < end:
            await acquire()
            taken.append(time.time())

    await asyncio.gather(*(waiter() for _ in range(WAITERS)))
    print(json.dumps({"taken": taken, "cpu": time.process_time() - cpu}))


def measure(name: str, server: embedded.Embedded, seconds: float) -> dict[str, object]:
    """One limiter."""
    client = redis.Redis.from_url(server.redis_url)
    client.flushdb()
    before, calls = client.info("cpu"), scripts(client)
    socket = f"unix://:{server.password}@{server.socket}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.limiters", "--child", name, socket, str(seconds)], stdout=subprocess.PIPE
        )
        for _ in range(PROCESSES)
    ]
    outputs = [process.communicate(timeout=seconds + 120)[0] for process in processes]
    if any(process.returncode for process in processes):
        return {"failed": True}
    reports = [json.loads(output) for output in outputs]
    after = client.info("cpu")
    taken = sorted(moment for report in reports for moment in report["taken"])
    spent = sum(after[k] - before[k] for k in ("used_cpu_user", "used_cpu_sys"))
    return {
        "permits": len(taken),
        "used": round(len(taken) / (RATE * (taken[-1] - taken[0])), 3),
        "refused": round(refused(taken) / len(taken), 4),
        "cpu_seconds_per_1000": round(1000 * sum(report["cpu"] for report in reports) / len(taken), 3),
        "redis_seconds_per_1000": round(1000 * spent / len(taken), 3),
        "scripts_per_permit": round((scripts(client) - calls) / len(taken), 2),
    }


def scripts(client: redis.Redis) -> int:
    """Scripts that were run: each is one round trip."""
    return sum(stat["calls"] for name, stat in client.info("commandstats").items() if name.startswith("cmdstat_eval"))


def refused(taken: list[float]) -> int:
    """Calls that a token bucket of the rate and burst would refuse."""
    level, last, count = float(BURST), taken[0], 0
    for moment in taken:
        level, last = min(BURST, level + (moment - last) * RATE), moment
        if level >= 1:
            level -= 1
        else:
            count += 1
    return count


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--child"]:
        asyncio.run(child(sys.argv[2], sys.argv[3], float(sys.argv[4])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tokenferry-bench-") as folder, embedded.running(Path(folder)) as server:
        rows = {name: measure(name, server, options.seconds) for name in LIMITERS}
    if options.json:
        print(json.dumps(rows))
        return
    for name, row in rows.items():
        print(f"{name:16}", "  ".join(f"{what} {value}" for what, value in row.items()))


if __name__ == "__main__":
    main()
