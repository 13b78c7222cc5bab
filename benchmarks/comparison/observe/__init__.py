"""Who looks on while a trial goes on: one observer per file, each with its own rows and its own pace.

* ``processes``  processor time, waiting for a processor, memory, of every process by role
* ``system``     the whole machine: processor time, pressure, sockets, the kernel's lost connections
* ``stock``      units left, as PostgreSQL and the gate say
* ``queues``     what waits where: balancer, servers, RabbitMQ, PostgreSQL, Redis
* ``watching``   drives them, and keeps what they saw until the load is over

Law 1: an observer that cannot see something leaves the field empty; it never stops a trial. Law 2: nothing is written to disk while
the load goes on.
"""
