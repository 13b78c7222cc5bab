-- settle: end the pending state of attempts that PostgreSQL has decided or fenced. Idempotent: a rid is settled once.
--
--   KEYS[1]  {sale}:gate              (names the hash tag only: a rid that is pending belongs to the gate that is here)
--   derived  {sale}:stock:<sku>       hash    available, pending: units
--            {sale}:pending           hash    rid -> "purchase buyer sku=quantity ..."
--            {sale}:pending_at        zset    rid -> ms
--            {sale}:pending_purchase  hash    purchase -> rid
--            {sale}:pending_buyer     hash    buyer -> units pending
--            {sale}:won               set     purchases ever held
--   ARGV     rid, keep per attempt: keep = 1 only for a fresh hold of this very rid, 0 gives the units back
--   RETURNS  how many of them were still pending

local base = string.sub(KEYS[1], 1, -5)
local settled = 0
for i = 1, #ARGV, 2 do
  local record = redis.call('HGET', base .. 'pending', ARGV[i])
  if record then
    local keep = ARGV[i + 1] == '1'
    local purchase, buyer, lines = string.match(record, '^(%S+) (%S+) (.+)$')
    local units = 0
    for sku, quantity in string.gmatch(lines, '(%S+)=(%d+)') do
      local key = base .. 'stock:' .. sku
      redis.call('HINCRBY', key, 'pending', -tonumber(quantity))
      if not keep then
        redis.call('HINCRBY', key, 'available', quantity)
      end
      units = units + tonumber(quantity)
    end
    redis.call('HDEL', base .. 'pending', ARGV[i])
    redis.call('ZREM', base .. 'pending_at', ARGV[i])
    redis.call('HDEL', base .. 'pending_purchase', purchase)
    if redis.call('HINCRBY', base .. 'pending_buyer', buyer, -units) <= 0 then
      redis.call('HDEL', base .. 'pending_buyer', buyer)
    end
    -- In the same step as the end of pending: between the two a winner's retry would find neither.
    if keep then
      redis.call('SADD', base .. 'won', purchase)
    end
    settled = settled + 1
  end
end
return settled
