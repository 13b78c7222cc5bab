# A server's name that no lookup takes. The settings refuse what is known of these; whatever they let through is a bad server.
import asyncio
from dataclasses import replace

from loadbalancer.agent import NOTHING
from loadbalancer.config import Address, Config
from loadbalancer.metrics import Totals
from loadbalancer.probe import check
from loadbalancer.proxy import Proxy
from loadbalancer.servers import Farm, Server
from tests.patience import PATIENCE_SECONDS

UNUSABLE = Address("a", "a..b", 80, 1)
CONFIG = replace(Config.load({"LB_SERVERS": "127.0.0.1:80"}), servers=(UNUSABLE,))


class Exchange:
    """Waits for a connection."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.problem = ""

    def unreached(self, _: Server, problem: str) -> None:
        self.problem = problem
        self.told.set()


async def test_its_check_is_a_bad_one() -> None:
    assert await check(UNUSABLE.host, UNUSABLE.port, b"a", CONFIG) == ("not a name that can be looked up", NOTHING)


async def test_a_connection_to_it_is_one_that_failed() -> None:
    farm, exchange = Farm(CONFIG), Exchange()
    proxy = Proxy(CONFIG, farm, Totals(), None)
    proxy.connect(farm.servers[0], exchange)  # type: ignore[arg-type]
    async with asyncio.timeout(PATIENCE_SECONDS):
        await exchange.told.wait()
    assert exchange.problem == "not a name that can be looked up"
    proxy.close()
