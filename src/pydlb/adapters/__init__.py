"""Where Python servers live: each adapter serves a balancer's connections with one framework's own protocol.

All have five calls, :class:`Adapter`. What runs them is :func:`pydlb.serve`, or anything else that calls the five:

* :mod:`pydlb.adapters.uvicorn`: ASGI applications;
* :mod:`pydlb.adapters.hypercorn`, :mod:`pydlb.adapters.hypercorn_trio`: the same, also with HTTP/2, also on trio;
* :mod:`pydlb.adapters.aiohttp`: aiohttp's applications;
* :mod:`pydlb.adapters.streams`: the handlers of :func:`asyncio.start_server`, on asyncio or uvloop;
* :mod:`pydlb.adapters.trio`, :mod:`pydlb.adapters.anyio`: listeners for programs of your own, and trio workers;
* :mod:`pydlb.adapters.socketserver`: mix-ins for :mod:`socketserver` and :mod:`http.server`.

gunicorn's workers are processes of their own and stay its arbiter's: :mod:`pydlb.gunicorn`.
"""

from __future__ import annotations

from .base import Active, Adapter

__all__ = ["Active", "Adapter"]
