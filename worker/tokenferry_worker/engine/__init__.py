"""Celery and processes: the application, the asyncio pool, the consumer, signals and the supervisor."""
