-- reserve: set the units of one attempt aside in the copy, or say why not. The only script on the buyers' path.
--
--   KEYS[1]  {sale}:gate              hash    epoch; run_id of the Redis that init ran on; skus
--   derived  {sale}:stock:<sku>       hash    available (may fall below zero while a debit and another backend's hold
--                                             cross), pending (units debited, not settled), cursor (ledger seq applied),
--                                             stamp_ms (Redis time before the read that showed cursor to be the latest),
--                                             state, opens_ms, closes_ms, limit (units of the sale per buyer)
--            {sale}:pending           hash    rid -> "purchase buyer sku=quantity ..."
--            {sale}:pending_at        zset    rid -> Redis time of the debit, ms
--            {sale}:pending_purchase  hash    purchase -> rid
--            {sale}:pending_buyer     hash    buyer -> units pending
--            {sale}:won               set     purchases ever held
--   ARGV     run_id of the caller's connection, highest epoch the caller has seen, rid, purchase, buyer,
--            then sku, quantity per line
--   RETURNS  {answer, epoch of the gate; 0 when there is none}
--            debited | known (held once, or being decided) | ask (this copy cannot tell) | sold_out | sale_not_open |
--            in_flight | stale; after known and ask PostgreSQL decides, and nothing was debited
--
-- Keys are derived because settle learns the SKUs from its record; all share the hash tag, so they share the slot.
-- An epoch above the caller's is no error: the debit is recorded under the epoch in the reply. One below is a copy from
-- the past. Validate first, write last: Redis keeps what a script wrote before it failed.

local FRESH_MS = 500   -- an older copy refuses nobody; five missed heartbeats
local GUARD_MS = 200   -- more than two clocks kept by NTP differ; this close to a bell PostgreSQL's clock decides

local base = string.sub(KEYS[1], 1, -5)
local run_id, seen, rid, purchase, buyer = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]

local gate = redis.call('HMGET', KEYS[1], 'epoch', 'run_id')
local epoch = tonumber(gate[1] or 0)
if epoch == 0 or gate[2] ~= run_id or epoch < seen then
  return {'stale', epoch}
end

-- Before everything that can change after a win: a winner who retries must not find an empty shelf or a closed door.
if redis.call('SISMEMBER', base .. 'won', purchase) == 1
  or redis.call('HEXISTS', base .. 'pending_purchase', purchase) == 1 then
  return {'known', epoch}
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local closed, near_bell, gone, short, wanted, limit = false, false, false, false, 0, 0
for i = 6, #ARGV, 2 do
  local quantity = tonumber(ARGV[i + 1])
  local stock = redis.call('HMGET', base .. 'stock:' .. ARGV[i],
    'available', 'pending', 'stamp_ms', 'state', 'opens_ms', 'closes_ms', 'limit')
  if not stock[1] then
    return {'stale', epoch}
  end
  local available, age = tonumber(stock[1]), now - tonumber(stock[3])
  local opens, closes = tonumber(stock[5]), tonumber(stock[6])
  local fresh = age >= 0 and age < FRESH_MS
  closed = closed or (fresh and (stock[4] ~= 'OPEN' or now < opens - GUARD_MS or now >= closes + GUARD_MS))
  near_bell = near_bell or now < opens + GUARD_MS or now >= closes - GUARD_MS
  short = short or available < quantity
  gone = gone or (fresh and available + tonumber(stock[2]) < quantity)
  wanted = wanted + quantity
  limit = tonumber(stock[7])
end

if closed then
  return {'sale_not_open', epoch}
end
if gone and not near_bell then
  return {'sold_out', epoch}
end
if short or wanted > limit then
  return {'ask', epoch}
end
if tonumber(redis.call('HGET', base .. 'pending_buyer', buyer) or 0) + wanted > limit then
  return {'in_flight', epoch}
end

local record = {purchase, buyer}
for i = 6, #ARGV, 2 do
  local key = base .. 'stock:' .. ARGV[i]
  redis.call('HINCRBY', key, 'available', -tonumber(ARGV[i + 1]))
  redis.call('HINCRBY', key, 'pending', ARGV[i + 1])
  record[#record + 1] = ARGV[i] .. '=' .. ARGV[i + 1]
end
redis.call('HSET', base .. 'pending', rid, table.concat(record, ' '))
redis.call('ZADD', base .. 'pending_at', now, rid)
redis.call('HSET', base .. 'pending_purchase', purchase, rid)
redis.call('HINCRBY', base .. 'pending_buyer', buyer, wanted)
return {'debited', epoch}
