"""Backend ``gevent_rabbit``: many greenlets, a durable queue, and the answer later.

The bet: a purchase attempt that RabbitMQ has confirmed on disk is as good as decided, so a front may say 202 at once, whatever
PostgreSQL is doing, and workers decide what is queued in batches as large as the queue is long. A 202 promises a decision and
never a unit; its receipt outlives the queue.
"""
