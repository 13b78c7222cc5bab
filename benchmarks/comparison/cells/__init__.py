"""The two cells that are missing between the backends: execution and pattern, each changed alone.

|  | answers with the verdict | queues, and decides later |
|---|---|---|
| asyncio | ``asyncio_redis`` | ``asyncio_queue`` |
| gevent  | ``gevent_direct`` | ``gevent_rabbit`` |

Each is a backend's own server with one part in another's place, so that whatever else differs is what differs between the two it stands
between: routes, identity, refusals at once and bounds are the backend's. What is not the same: neither cell asks the gate, which is a part
of ``asyncio_redis`` alone, and ``asyncio_queue`` publishes through a general driver. They are made for a comparison, not to be run by
anybody: what a broker or a database that goes away does to them is no question here.
"""
