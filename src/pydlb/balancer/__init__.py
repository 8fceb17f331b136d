"""The connection balancer: listening sockets on one side, workers on the other."""

from .balancer import Balancer
from .checks import are_processes, check_range
from .crew import Runner

__all__ = ["Balancer", "Runner", "are_processes", "check_range"]
