"""Curves that grow while a training runs, in a notebook."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from IPython.display import HTML, display

from mlanet_lib.show.curves import training_curves

LOOK_EVERY = 2.0
"""Seconds between looks at the file."""


@contextmanager
def live_curves(history: str | Path) -> Iterator[None]:
    """While the body runs, show the curves of `history.csv` (`training.loop.fit` writes it), anew with each validation.

    The file is watched, so that the training may run in this process or in others. The picture goes when the body ends:
    a notebook draws its curves once more afterwards, from the finished run.
    """
    path, ended = Path(history), threading.Event()
    handle = display(HTML(""), display_id=True)

    def written() -> int:
        return path.stat().st_mtime_ns if path.exists() else 0

    def watch() -> None:
        shown = written()  # what an earlier run left
        while not ended.wait(LOOK_EVERY):
            if handle is not None and (now := written()) not in (0, shown):
                shown = now
                handle.update(training_curves(pd.read_csv(path)))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        if handle is not None:
            handle.update(HTML(""))
