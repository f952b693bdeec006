"""The Celery application of a worker process, with every setting that keeps it from losing a delivery.

`docs/brokers.md` gives the measurement behind each setting.
"""

from __future__ import annotations

import logging
import socket
from functools import cache, partial
from typing import Any, Final

from celery.signals import worker_ready

from tokenferry.broker import connecting
from tokenferry.broker.publishing import Publisher
from tokenferry.broker.redis_transport import NOTED
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import ATTACH_TASK, ONBOARD_TASK, TOKENIZE_TASK
from tokenferry_worker import wiring
from tokenferry_worker.engine import signals
from tokenferry_worker.engine.engine import Engine, EngineApp
from tokenferry_worker.health.vitals import ReportLine, Vitals
from tokenferry_worker.health.watchdog import Watchdog
from tokenferry_worker.health.witness import QueueWitness
from tokenferry_worker.metrics.registry import to_line
from tokenferry_worker.on_redis.store import ServerClock, now_at
from tokenferry_worker.wiring import Role

log = logging.getLogger("tokenferry.worker")

LAST_REPORT: Final = 1.0
"""Seconds for which a process that ends waits for its watchdog, to send the last report after it."""
TASKS = {"tokenize": TOKENIZE_TASK, "attach": ATTACH_TASK, "onboard": ONBOARD_TASK}


def build(configuration: Configuration, role: Role) -> EngineApp:
    """Return the application of one worker process."""
    app = EngineApp(_engine(configuration, role))
    app.conf.update(_settings(configuration, role))
    # Keep only the tasks of the role, and none of Celery's own: a message for any other is moved to quarantine.
    app.finalize()
    for name in list(app.tasks):
        app.tasks.unregister(name)
    for name in TASKS.values() if role == "all" else [TASKS[role]]:
        app.task(_never, name=name, shared=False, ignore_result=True, acks_late=True)
    return app


def _engine(configuration: Configuration, role: Role) -> Engine:
    publisher = cache(partial(Publisher.to, configuration))
    vitals = Vitals(role)
    amqp = connecting.is_amqp(connecting.broker_url(configuration))
    return Engine(
        open_handlers=lambda: wiring.handlers(configuration, role, publisher(), vitals),
        publisher=publisher,
        now=ServerClock(lambda: now_at(connecting.store_url(configuration), configuration.store.prefix)),
        vitals=vitals,
        grace_seconds=configuration.worker.grace_seconds,
        hold_seconds=configuration.broker.hold_seconds if amqp else None,
    )


def _settings(configuration: Configuration, role: Role) -> dict[str, Any]:
    url = connecting.broker_url(configuration)
    amqp = connecting.is_amqp(url)
    return {
        "broker_url": url,
        "broker_transport": connecting.transport(url),
        "broker_use_ssl": connecting.tls(configuration),
        "broker_transport_options": connecting.transport_options(url, configuration),
        "broker_heartbeat": 10 if amqp else 0,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "task_queues": [connecting.queue(name, amqp=amqp) for name in wiring.queues_of(configuration, role)],
        "task_create_missing_queues": False,
        "accept_content": ["json"],
        # Nothing is acknowledged before its outcome is recorded and published.
        "task_acks_late": True,
        "task_acks_on_failure_or_timeout": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_enable_prefetch_count_reduction": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Results have their own queues. A result backend and events would only leak.
        "task_ignore_result": True,
        "task_store_eager_result": False,
        "worker_send_task_events": False,
        "worker_enable_remote_control": False,
        "worker_pool": "tokenferry_worker.engine.pool:AsyncioPool",
        "worker_consumer": "tokenferry_worker.engine.consumer:CarefulConsumer",
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_concurrency": configuration.worker.concurrency,
    }


def run(configuration: Configuration, role: Role, *, name: str) -> int:
    """Work until a signal (`signals`) or the watchdog ends the process.

    Return the exit code: 0 only where nothing failed, not even closing the connections of the deliveries.
    """
    quiet()
    app = build(configuration, role)
    worker = app.Worker(
        hostname=f"{name}@{socket.gethostname()}",
        quiet=True,
        without_mingle=True,
        without_gossip=True,
        without_heartbeat=True,
        loglevel=logging.WARNING,
        pool_cls="tokenferry_worker.engine.pool:AsyncioPool",
    )
    worker.install_platform_tweaks = signals.obey_signals
    worker_ready.connect(_say_ready, weak=False)
    line = ReportLine()
    watchdog = _watchdog(app, worker, configuration, line)
    watchdog.start()
    worker.start()
    watchdog.stop()
    watchdog.join(LAST_REPORT)
    _report(line, app.engine.vitals)  # what was counted since the last one
    # Nobody waits any more for what it still holds: those deliveries were given back.
    app.engine.publisher().close(timeout=1.0)
    return int(worker.exitcode or 0) or int(worker.pool.failed)


def _watchdog(app: EngineApp, worker: Any, configuration: Configuration, line: ReportLine) -> Watchdog:
    """Connect the watchdog and the vitals to the pool, the consumer and the queue witness."""
    witness = QueueWitness(configuration, [queue.name for queue in app.conf.task_queues])
    vitals = app.engine.vitals
    vitals.pool = worker.pool
    vitals.noted = NOTED
    vitals.connected = worker.consumer.is_reading
    vitals.refused_to_reap = worker.consumer.is_refused_to_reap
    vitals.reached = lambda: witness.reached
    vitals.empty_at = lambda: witness.empty_at
    return Watchdog(
        worker.pool,
        witness,
        seconds=configuration.worker.watchdog_seconds,
        concurrency=configuration.worker.concurrency,
        reading=worker.consumer.is_reading,
        full=worker.consumer.is_full,
        report=partial(_report, line, vitals),
    )


def _report(line: ReportLine, vitals: Vitals) -> None:
    line.send(vitals.report(), to_line(vitals.meters.snapshot()))


def quiet() -> None:
    """Keep libraries from logging what they carry: Celery logs bodies, HTTP clients log URLs."""
    for name in ("celery.worker.strategy", "celery.app.trace", "httpx", "httpcore", "aiohttp", "kombu", "amqp"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # After a lost connection these two log a traceback for every delivery that can no longer be acknowledged, and for
    # each late frame of the old connection. The deliveries come back by themselves, and the loss is logged once.
    for name in ("celery.worker.request", "celery.worker.loops"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _say_ready(sender: Any, **_: Any) -> None:
    app: EngineApp = sender.app
    app.engine.vitals.ready = True
    log.info("ready, reading %s", ", ".join(queue.name for queue in app.conf.task_queues))


def _never(body: str) -> None:
    raise RuntimeError("this task runs in tokenferry's own pool only: start the worker with `tokenferry worker`")
