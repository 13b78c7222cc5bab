"""What keeps the shop right while nobody asks: holds end on time, and the gate of every live sale equals PostgreSQL.

Any number of these processes may run; whatever two of them do at once, one of them does.
"""
