-- wrk's requests: each a purchase attempt of its own, with a key that nobody has used. One JSON line on stdout at the end.
--
--   arguments  request line without its version, prefix of the keys, file of bodies, one a line, and a file of identities:
--              "Buyer-Id: ..." or "Authorization: ...", one a line. Both are taken in turn. Without the latter (or with "")
--              every attempt is a buyer's own. And a text of header lines, each with its end, which every attempt has too.
--
-- The request is put together from strings: wrk.format walks a table per request, which costs more than all the rest.

local heads, tails, identities, count, sent = {}, {}, {}, 0, 0

function init(arguments)
  local line, prefix, bodies, names, more = arguments[1], arguments[2], arguments[3], arguments[4], arguments[5] or ''
  for body in io.lines(bodies) do
    heads[#heads + 1] = line .. ' HTTP/1.1\r\nHost: ' .. wrk.host .. ':' .. wrk.port
      .. '\r\n' .. more .. 'Content-Type: application/json\r\nContent-Length: ' .. #body .. '\r\nIdempotency-Key: ' .. prefix
    tails[#tails + 1] = '\r\n\r\n' .. body
  end
  if names and names ~= '' then
    for line in io.lines(names) do
      identities[#identities + 1] = '\r\n' .. line
    end
  end
  count = #identities
end

function request()
  sent = sent + 1
  local number, turn = string.format('%010d', sent), sent % #heads + 1
  local identity = count > 0 and identities[sent % count + 1] or '\r\nBuyer-Id: buyer-' .. number
  return heads[turn] .. number .. identity .. tails[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"answers":%d,"seconds":%.6f,"p50_ms":%.4f,"p99_ms":%.4f,"max_ms":%.4f,"refusals":%d,"broken":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
