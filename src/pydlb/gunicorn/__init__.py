"""gunicorn's workers, with connections spread evenly over its processes.

::

    gunicorn -k pydlb.gunicorn.Worker --workers 4 --threads 8 module:app
    gunicorn -k pydlb.gunicorn.ASGIWorker --workers 4 module:app

Everything is gunicorn's, and its settings mean what they mean there: the arbiter, its signals and hooks, HTTP, logs,
timeouts. `Worker` is its `gthread` worker and `ASGIWorker` its `asgi` worker but for one thing: who accepts. A thread
in the arbiter gives out permits to accept, each to the worker with the fewest open connections that has nothing else to
do; connections stay in the kernel's backlog until then. So a worker that is busy, reloads or dies takes none along.

`--reuse-port` is refused: with it the kernel chooses the worker.
"""

from __future__ import annotations

from .asgi import ASGIWorker
from .wsgi import Worker

__all__ = ["ASGIWorker", "Worker"]
