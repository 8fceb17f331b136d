"""Workers that are processes.

The process that has the balancer need not accept: connections stay in the kernel's backlog, and its accepting thread
sends *permits* to accept them through the queue, whose memory all share. A worker that receives a permit accepts by
itself. So nothing is ever on its way to a worker, and one that dies loses only the connections that it had.

A policy that picks a worker must know the connection first. There the thread does accept, and puts it on the worker's
*shelf*, a pair of sockets of which it has both ends: what lies there outlives the worker, and can be taken back.

Each worker has a *seat* on a board in shared memory, where it counts what it does. The *pool* starts the processes,
watches over them, and starts others for those that die.
"""
