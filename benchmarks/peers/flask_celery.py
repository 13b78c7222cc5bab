"""Flask and Celery as people write it: a task is sent in each request. Confirmed by the broker, which Celery does only when told to."""

# isort: off
from benchmarks.peers import queueing  # first: it patches the world

# isort: on
import os
from collections.abc import Callable

from celery import Celery
from kombu import Queue

QUEUE = "peers.celery"


def open_queue(url: str) -> Callable[[list[str]], None]:
    """Sends a task, and returns once the broker has it."""
    celery = Celery("shop", broker=url)
    queue = Queue(QUEUE, durable=True, queue_arguments=queueing.QUEUE_ARGUMENTS)
    celery.conf.update(
        task_queues=[queue],
        task_default_queue=QUEUE,
        task_ignore_result=True,
        broker_transport_options={"confirm_publish": True},
        broker_pool_limit=queueing.CONNECTIONS,
    )

    def purchase(*arguments: str) -> None:
        raise NotImplementedError("no worker runs here")

    task = celery.task(purchase, name="purchase")
    with celery.connection_for_write() as connection:
        bound = queue(connection)
        bound.declare()
        bound.purge()

    def put(arguments: list[str]) -> None:
        task.apply_async(arguments)

    return put


def main() -> None:
    setup = queueing.Setup.read(os.environ)
    queueing.serve(setup, lambda: open_queue(setup.rabbitmq_url))


if __name__ == "__main__":
    main()
