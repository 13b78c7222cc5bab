"""Simulated shoppers.

* ``arrivals``     who comes when, and how they behave; pure, drawn from a seed
* ``connections``  a small HTTP/1.1 client on bounded keep-alive connections
* ``shoppers``     one shopper's visit, from arrival to a definite answer
* ``told``         what each shopper asked and heard, written down for the auditor
* ``tally``        counts and latencies while it runs and at the end
"""
