"""The thread that reads a run's results."""

from __future__ import annotations

import threading
from typing import Any

from tokenferry.bulk.outputs import OutputFailed, Outputs
from tokenferry.bulk.window import Closed, Window
from tokenferry.consuming import Results
from tokenferry.contract.results import AnyResult


class ResultsReader(threading.Thread):
    """Reads the run's route and settles its items. A result is acknowledged only after its line is written."""

    def __init__(self, results: Results, window: Window[Any, Any], outputs: Outputs) -> None:
        super().__init__(name="tokenferry-results", daemon=True)
        self.trouble: str | None = None
        self._results = results
        self._window = window
        self._outputs = outputs
        self._delete_route = False

    def run(self) -> None:
        try:
            with self._results as results:
                results.run(self._settle)
                if self._delete_route:
                    results.delete()
        except Closed:
            pass
        except OutputFailed as error:
            self.trouble = str(error)
        except Exception as error:
            if not self._delete_route:  # else everything is settled, and an error no longer matters
                self.trouble = f"results can no longer be read ({type(error).__name__})"

    def end(self, *, delete: bool) -> None:
        """Stop reading. *delete*: delete the route too. Waits a few seconds at most."""
        self._delete_route = delete
        self._results.stop()
        if self.ident is not None:
            self.join(3.0)

    def _settle(self, result: AnyResult) -> None:
        if isinstance(result, self._window.outcomes):
            self._window.settle(result, self._outputs.result)
