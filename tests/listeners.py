"""How a server of a test's own stops listening: with nobody half inside."""

import asyncio

TURNS = 5  # of the loop from accepting a connection to the first step of who serves it: three, and some to spare


async def shut(server: asyncio.Server) -> None:
    """No more connections, and all that came before are known to who serves them.

    asyncio makes a connection some turns after it has accepted it. A server that is closed in between leaves one that nobody
    closes, which is a warning and fails a test; or one that nobody knows of yet, which goes on when all were to break.
    """
    for listening in server.sockets:
        server.get_loop().remove_reader(listening.fileno())
    for _ in range(TURNS):
        await asyncio.sleep(0)
    server.close()
