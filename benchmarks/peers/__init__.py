"""What other people would build: the same decision in the same script, with other tools.

Each peer reads a purchase attempt with the contract's own functions (Node with its own), asks Redis by ``reserve.lua``, and
answers ``sold_out`` with the contract's problem. None of them asks PostgreSQL, keeps metrics or settles: they are measured
where every attempt is refused, and get the rest for nothing. They are tuned as ours is: connections are kept, nothing is logged,
uvloop, httptools and hiredis where there is Python, the collector of garbage told to come seldom, Node's young generation enlarged.

Two others, with Flask behind gunicorn, put the attempt into a quorum queue and answer 202 once it is confirmed. They too are given
the rest for nothing: no receipt, no single flight, no bound, no counts, and no way of hearing what became of it.

A last one is no shop but a reverse proxy in aiohttp, beside which the balancer is measured.
"""
