"""pydlb serve: an ASGI or WSGI application on balanced workers, with uvicorn's protocols and options."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Serve until told to end.

    Returns:
        The exit status.
    """
    try:
        from pydlb.serving.command import command
    except ImportError as error:
        print(f"pydlb: serve needs uvicorn ({error}): pip install 'pydlb[serve]'", file=sys.stderr)
        return 1
    try:
        command.main(arguments, prog_name="pydlb serve")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
