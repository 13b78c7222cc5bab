-- wrk's requests: the bytes of one file, again and again. One JSON line on stdout at the end.
--
--   arguments  the file

local bytes

function init(arguments)
  local file = assert(io.open(arguments[1], 'rb'))
  bytes = file:read('*a')
  file:close()
end

function request()
  return bytes
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"answers":%d,"seconds":%.6f,"p50_ms":%.4f,"p99_ms":%.4f,"max_ms":%.4f,"refusals":%d,"broken":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
