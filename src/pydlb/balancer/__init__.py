"""The connection balancer: listening sockets on one side, workers on the other."""

from .balancer import Balancer, are_processes
from .checks import check_range
from .crew import Runner

__all__ = ["Balancer", "Runner", "are_processes", "check_range"]
