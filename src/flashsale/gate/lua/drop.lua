-- drop: forget a sale that is over for good. Nothing is lost: a later attempt finds no gate and PostgreSQL answers it.
--
--   KEYS[1]  {sale}:gate              hash    skus
--   derived  every other key of the sale, as init names them
--   ARGV     SKUs of the sale as PostgreSQL has them: a damaged gate does not name its own
--   RETURNS  1 when there was anything, else 0

local base = string.sub(KEYS[1], 1, -5)
local gone = 0
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
  for sku in string.gmatch(redis.call('HGET', KEYS[1], 'skus') or '', '%S+') do
    gone = gone + redis.call('UNLINK', base .. 'stock:' .. sku)
  end
end
for _, sku in ipairs(ARGV) do
  gone = gone + redis.call('UNLINK', base .. 'stock:' .. sku)
end
gone = gone + redis.call('UNLINK', base .. 'pending', base .. 'pending_at', base .. 'pending_purchase',
  base .. 'pending_buyer', base .. 'won', KEYS[1])
return gone > 0 and 1 or 0
