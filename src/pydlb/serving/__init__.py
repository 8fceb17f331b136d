"""What `pydlb serve` is made of.

A *supervisor* owns the listening sockets and serves nobody. It starts *serving processes*, which share those sockets:
each has a balancer, its workers, and the application. When one is replaced, for a reload or because it died, the
sockets stay open, so that no client is refused.
"""
