"""Where Python servers live: each adapter serves a balancer's connections with one framework's own protocol.

All have five calls, :class:`Adapter`. What runs them is :func:`pydlb.serve`, or anything else that calls the five:

* :mod:`pydlb.adapters.uvicorn`, :mod:`pydlb.adapters.hypercorn`: ASGI applications;
* :mod:`pydlb.adapters.aiohttp`: aiohttp applications;
* :mod:`pydlb.adapters.streams`: the handlers of :func:`asyncio.start_server`.
"""

from __future__ import annotations

from .base import Active, Adapter

__all__ = ["Active", "Adapter"]
