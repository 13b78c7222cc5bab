"""Checkout through a queue, the half that any front may share: the attempt as a message, its receipt, the worker that decides.

* ``message``   an attempt as bytes and back, strictly
* ``receipt``   the signed promise "this attempt will be decided", and what became of it
* ``topology``  queues and exchanges: names, arguments, and the reason for each
* ``feed``      who is told that something was decided, and what
* ``frames``    an attempt as the bytes of its publication
* ``depth``     how many wait in each shard
* ``link``      one RabbitMQ connection of a gevent process, kept up
* ``teller``    brings the feed to the broker, beside the deciding
* ``deliveries``  what the broker delivers, read before the driver sees it
* ``worker``    takes attempts off the queue, lets PostgreSQL decide them in batches, and only then acknowledges
"""
