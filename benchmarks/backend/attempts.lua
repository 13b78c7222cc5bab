-- wrk's requests: each a purchase attempt of its own, with a key that nobody has used. One JSON line on stdout at the end.
--
--   arguments  prefix of the keys, SKU, quantity, file of identity lines: "Buyer-Id: ..." or "Authorization: ...", one each
--
-- The request is put together from strings: wrk.format walks a table per request, which costs more than all the rest.

local head, tail, identities, count, sent

function init(arguments)
  local prefix, sku, quantity = arguments[1], arguments[2], arguments[3]
  local body = '{"items":[{"sku":"' .. sku .. '","quantity":' .. quantity .. '}]}'
  head = 'POST /purchases HTTP/1.1\r\nHost: ' .. wrk.host .. ':' .. wrk.port .. '\r\nContent-Type: application/json\r\n'
    .. 'Content-Length: ' .. #body .. '\r\nIdempotency-Key: ' .. prefix
  tail = '\r\n\r\n' .. body
  identities = {}
  for line in io.lines(arguments[4]) do
    identities[#identities + 1] = '\r\n' .. line .. tail
  end
  count, sent = #identities, 0
end

function request()
  sent = sent + 1
  return head .. string.format('%010d', sent) .. identities[sent % count + 1]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"answers":%d,"seconds":%.6f,"p50_ms":%.4f,"p99_ms":%.4f,"max_ms":%.4f,"refusals":%d,"broken":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
