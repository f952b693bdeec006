"""One worker process, as its supervisor starts it."""

import os
import signal

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
    signal.signal(number, lambda *_: os._exit(0))  # nothing is in hand yet: what follows takes a second to load

from tokenferry_worker.commands.worker import worker  # noqa: E402
from tokenferry_worker.engine.supervisor import end_with_parent  # noqa: E402

if __name__ == "__main__":
    end_with_parent()
    worker()
