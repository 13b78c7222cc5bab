"""What the operations page shows, as one stream of figures: ``GET /api/operations/stream``, for whoever is signed in.

Law 1: nothing is read while nobody looks, and once for all who do. Law 2: a part whose source is away says so, and the others go on.

The stream (``text/event-stream``)
    ``event: figures``, ``id`` an increasing number, ``data`` one frame: the whole state, never a difference, once a second. A reader that is slow is given the latest frame and none between. ``event: bye`` with
    ``{"word": "full" | "signed_out" | "stopping"}`` is the last of a stream that ends; ``retry`` says when to come back.
    A browser that comes back signed out hears 401, which ends its EventSource.

A frame. Times (``at``) are as ``2026-11-27T18:00:00.000Z``, ``*_s`` seconds, ``*_ms`` milliseconds, ``*_per_s`` and percentiles are of the last
``window_s`` seconds. A number nobody knows (yet) is null: a rate needs two looks, a percentile something that happened. Every part
but ``at``, ``window_s``, ``events`` and ``bench`` may be ``{"away": "why"}`` instead.
    at, window_s    when it was put together, and what "the last seconds" are
    audit           {age_s, clean, oversold, lost, duplicated, leaked, drift, word}: the most that was ever found since the auditor
                    began; clean is about all that it looks for, which is more than these five; word says it all in one line
    sales           [{sale, name, state, units, available}], the latest twenty; state is SCHEDULED, OPEN, PAUSED or ENDED
    backends        [{name, servers, up, rate_per_s, held_per_s, refused_per_s, errors_per_s, accepted, decided}]: of the attempts
                    that it answered; errors are ``try_later``. accepted: until the shopper had an answer; decided: until there was
                    a verdict (for a queued attempt, by its worker). Both {p50_ms, p95_ms, p99_ms, n}, without what was refused at once
                    by the server's own copy. A percentile beyond the last bucket is that bucket's bound: "at least".
    balancer        {algorithm, algorithms, uptime_s, queue, queue_refused_per_s, queue_late_per_s, servers: [{name, backend, state,
                    word, since_s, weight, drained, in_flight, requests_per_s, errors_per_s, retries_per_s, p99_ms}]}. queue: requests that wait for a place. state is up, down, ejected, draining (as it says
                    itself), drained (by hand) or leaving, the worst that a worker sees; drained (by hand) may be so of one that is
                    down; since_s is of what its workers see; errors are answers 5xx
    queues          [{name, depth, consumers}]: messages in nobody's hand; both null of a queue that was not there when it was looked for
    dead_letters    {n}
    gate            {drift_units, lag_rows, pending, round_age_s, up, servers}: drift_units is the worst SKU's, with its sign; the
                    first three are null when no round of upkeep ended well lately; up of so many servers have it
    commit_lag      {p50_ms, p99_ms, oldest_ms}: a batch from its start to its commit, both backends; oldest: since the oldest
                    attempt that a worker has in hand was queued
    processes       [{role, index, pid, cpu_cores, rss_mib, up_s, away}]: away is null, or why it does not answer
    events          [{id, at, kind, subject, text}], the last 30 and the last 20 deeds, the oldest first. kind: sale.opened, .paused, .sold_out, .restocked,
                    .ended · server.up, .down, .drained, .undrained, .ejected, .added, .removed · balancer.algorithm, .restarted ·
                    process.restarted, .away, .back · deed · audit.found
    bench           null, or {name, phase, done, of, eta_s, ratios: [{metric, ratio, low, high}]} of the comparison that runs

Controls are deeds like the page's others (``GET /api/actions`` lists them): ``balancer.drain {server}``, ``balancer.undrain {server}``,
``balancer.weight {server, weight}``, ``balancer.algorithm {algorithm}``; rehearsed by ``POST /api/plans/{action}``, done by
``POST /api/deeds/{action}`` with ``reason`` and ``Idempotency-Key``.
"""
