"""A connection, and what stands for it in the count. Both are the extension's: they are made for every client."""

from pydlb._native import Connection, Ticket

__all__ = ["Connection", "Ticket"]
