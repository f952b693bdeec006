"""The Celery application: the engine that carries deliveries, with every setting that keeps it from losing one.

`docs/brokers.md` gives the measurement behind each setting.
"""

from __future__ import annotations

import logging
import socket
from functools import cache, partial
from typing import Any

from celery import Celery
from celery.signals import worker_ready

from tokenferry.broker import connecting
from tokenferry.broker.publishing import Publisher
from tokenferry.broker.redis_transport import NOTED
from tokenferry.configuration import Configuration
from tokenferry.contract.queues import ATTACH_TASK, ONBOARD_TASK, TOKENIZE_TASK
from tokenferry_worker import wiring
from tokenferry_worker.engine import signals
from tokenferry_worker.health.vitals import ReportLine, Vitals
from tokenferry_worker.health.watchdog import Watchdog
from tokenferry_worker.health.witness import QueueWitness
from tokenferry_worker.on_redis.store import ServerClock, now_at
from tokenferry_worker.wiring import Role

log = logging.getLogger("tokenferry.worker")


def build(configuration: Configuration, role: Role) -> Celery:
    """The application of one worker process."""
    url = connecting.broker_url(configuration)
    amqp = connecting.is_amqp(url)
    app = Celery("tokenferry", set_as_current=False)
    app.conf.update(
        broker_url=url,
        broker_transport=connecting.transport(url),
        broker_use_ssl=connecting.tls(configuration),
        broker_transport_options=connecting.transport_options(url, configuration),
        broker_heartbeat=10 if amqp else 0,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_queues=[connecting.queue(name, amqp=amqp) for name in wiring.queues_of(configuration, role)],
        task_create_missing_queues=False,
        accept_content=["json"],
        # Nothing is acknowledged before its outcome is recorded and told.
        task_acks_late=True,
        task_acks_on_failure_or_timeout=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_enable_prefetch_count_reduction=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # Results travel on queues of their own; a result backend and events would only leak.
        task_ignore_result=True,
        task_store_eager_result=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_pool="tokenferry_worker.engine.pool:AsyncioPool",
        worker_consumer="tokenferry_worker.engine.consumer:CarefulConsumer",
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_concurrency=configuration.worker.concurrency,
    )
    # Only the tasks of the role, and none of Celery's own: another one's message is set aside as unknown.
    app.finalize()
    for name in list(app.tasks):
        app.tasks.unregister(name)
    tasks = {"tokenize": TOKENIZE_TASK, "attach": ATTACH_TASK, "onboard": ONBOARD_TASK}
    for name in tasks.values() if role == "all" else [tasks[role]]:
        app.task(_never, name=name, shared=False, ignore_result=True, acks_late=True)

    publisher = cache(partial(Publisher.to, configuration))
    vitals = Vitals(role)

    def open_() -> Any:
        return wiring.handlers(configuration, role, publisher(), vitals)

    app.tokenferry_publisher = publisher
    app.tokenferry_clock = ServerClock(lambda: now_at(connecting.store_url(configuration)))
    app.tokenferry_open = open_
    app.tokenferry_vitals = vitals
    app.tokenferry_hold = configuration.broker.hold_seconds if amqp else None
    app.tokenferry_grace = configuration.worker.grace_seconds
    return app


def run(configuration: Configuration, role: Role, *, name: str) -> int:
    """Work until a signal (`stopping`) or until the watchdog ends it.

    Returns the exit code: 0 only where nothing failed, the closing of what the deliveries used included.
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
    watchdog = _watchdog(app, worker, configuration)
    watchdog.start()
    worker.start()
    watchdog.stop()
    # Nobody waits any more for what it still holds: that was given back.
    app.tokenferry_publisher().close(timeout=1.0)
    return int(worker.exitcode or 0) or int(worker.pool.failed)


def _watchdog(app: Celery, worker: Any, configuration: Configuration) -> Watchdog:
    """Introduce to each other: what is watched, who watches, and who hears of it."""
    witness = QueueWitness(configuration, [queue.name for queue in app.conf.task_queues])
    vitals: Vitals = app.tokenferry_vitals
    vitals.pool = worker.pool
    vitals.noted = NOTED
    vitals.connected = worker.consumer.is_reading
    vitals.reached = lambda: witness.reached
    vitals.empty_at = lambda: witness.empty_at
    line = ReportLine()
    return Watchdog(
        worker.pool,
        witness,
        seconds=configuration.worker.watchdog_seconds,
        concurrency=configuration.worker.concurrency,
        reading=worker.consumer.is_reading,
        full=worker.consumer.is_full,
        report=lambda: line.tell(vitals.report()),
    )


def quiet() -> None:
    """Keep libraries from logging what they carry: Celery dumps bodies, HTTP clients log URLs."""
    for name in ("celery.worker.strategy", "celery.app.trace", "httpx", "httpcore", "aiohttp", "kombu", "amqp"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # After a lost connection they log, with tracebacks, every delivery that cannot be acknowledged any more and what
    # the old connection still had to say. The deliveries come back by themselves, and the loss itself is logged once.
    for name in ("celery.worker.request", "celery.worker.loops"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _say_ready(sender: Any, **_: Any) -> None:
    sender.app.tokenferry_vitals.ready = True
    log.info("ready, reading %s", ", ".join(queue.name for queue in sender.app.conf.task_queues))


def _never(body: str) -> None:
    raise RuntimeError("this task runs in tokenferry's own pool only: start the worker with `tokenferry worker`")
