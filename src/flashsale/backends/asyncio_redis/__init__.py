"""Backend ``asyncio_redis``: one thread, one event loop, and the answer in the request.

The bet: a gate in Redis refuses almost everybody in one atomic script, so that PostgreSQL decides only for those who may win,
many of them in one statement. A yes is said after the commit and never before; the gate may be wrong, lost or restarted and
costs at most a refusal too many for a moment.
"""
