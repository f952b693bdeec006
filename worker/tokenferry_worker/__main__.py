"""One worker process, as its supervisor starts it."""

from tokenferry_worker.commands.worker import worker
from tokenferry_worker.supervising import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    worker()
