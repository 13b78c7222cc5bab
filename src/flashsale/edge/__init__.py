"""HTTP with a greenlet per connection: a worker of gunicorn's, which keeps the port, the signals and the second life of a process.

Knows HTTP and nothing of sales, and reads with the balancer's strict reader: requests are bytes that become a ``Request``, answers
are an ``Answer`` that becomes bytes, and nothing stands between. gunicorn's own gevent workers read a request line by line and
hand it over as WSGI, which takes several times the CPU of everything else an attempt needs here.
"""
