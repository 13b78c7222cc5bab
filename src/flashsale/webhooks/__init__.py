"""An example of a consumer of ``flash.events``: hands chosen events to one HTTP address, signed. Nothing of the shop needs it.

Law 1: at least once; the receiver knows a repetition by ``webhook-id``. Law 2: a receiver that is slow, away or broken costs
the shop nothing: its queue is bounded and gives up the oldest instead of refusing the relay, which carries the payments.
"""
