"""Who works, who waits, and who is sent away."""

import asyncio

import pytest

from flashsale.admin.turns import FullError, Turns

WORKING, WAITING = 2, 3


class Crowd:
    """Tasks that keep their turns until they are let go."""

    def __init__(self) -> None:
        self.turns = Turns(WORKING, WAITING)
        self.go = asyncio.Event()
        self.at_work: list[int] = []
        self.most = 0

    async def comes(self, number: int) -> None:
        async with self.turns.turn():
            self.at_work.append(number)
            self.most = max(self.most, len(self.at_work))
            try:
                await self.go.wait()
            finally:
                self.at_work.remove(number)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_so_many_work_so_many_wait_and_the_next_is_sent_away() -> None:
    crowd = Crowd()
    tasks = [asyncio.create_task(crowd.comes(number)) for number in range(WORKING + WAITING)]
    await settle()
    assert crowd.at_work == [0, 1]
    for number in range(3):
        with pytest.raises(FullError):
            await crowd.comes(100 + number)
    crowd.go.set()
    await asyncio.gather(*tasks)
    assert crowd.most == WORKING
    await crowd.comes(200)  # there is room again


async def test_who_gives_up_waiting_leaves_the_place_to_others() -> None:
    crowd = Crowd()
    tasks = [asyncio.create_task(crowd.comes(number)) for number in range(WORKING + WAITING)]
    await settle()
    tasks[-1].cancel()
    tasks[0].cancel()  # one who works goes too
    await settle()
    assert crowd.at_work == [1, 2]
    tasks += [asyncio.create_task(crowd.comes(number)) for number in (10, 11)]
    await settle()
    with pytest.raises(FullError):
        await crowd.comes(12)
    crowd.go.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in ended] == [
        True,
        False,
        False,
        False,
        True,
        False,
        False,
    ]
