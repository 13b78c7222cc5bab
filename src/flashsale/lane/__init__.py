"""The short way for one route: whole, plain requests are read, answered and written here, everything else by whoever stands behind.

Knows HTTP and nothing of sales, as the balancer does, and reads with the balancer's strict reader. What is not plain goes behind
as it came, byte for byte, so a rule of HTTP is never kept twice.
"""
