"""The gate: Redis's fast copy of the stock of every live sale. It may only refuse; PostgreSQL alone says yes.

* ``lua/``    the whole logic, one atomic script per verb; the schema of its keys stands on top of each
* ``link``    one pipelined connection that never re-sends a command
* ``client``  the typed verbs: servers reserve and settle, upkeep looks, applies and rebuilds
"""
