"""HTTP/1.1 as bytes in, events out: no socket, no clock, no loop.

Strict on purpose. Two readers of one message that disagree about where it ends let a stranger put a request between
them, so what could be read in two ways is refused, and what is forwarded is written anew from what was understood.
"""
