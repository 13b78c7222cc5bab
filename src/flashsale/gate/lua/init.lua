-- init: replace everything of one sale by one moment of PostgreSQL. What was pending is forgotten on purpose: a hold that
-- commits later carries an older epoch, so its row is applied like any other backend's.
--
--   KEYS[1]  {sale}:gate              hash    epoch, run_id, skus (separated by spaces)
--   derived  {sale}:stock:<sku>       hash    available, pending, cursor, stamp_ms, state, opens_ms, closes_ms, limit
--            {sale}:pending, {sale}:pending_at, {sale}:pending_purchase, {sale}:pending_buyer    emptied
--            {sale}:won               set     purchases ever held
--   ARGV     run_id of the caller's connection, epoch raised in PostgreSQL with the image, stamp_ms (Redis time before it
--            was read), number of items, then per item: sku, available, cursor, state, opens_ms, closes_ms, limit;
--            then the purchases ever held
--   RETURNS  {1 when the gate now is this image, else 0; epoch of the gate}
--
-- An epoch not above the gate's own is refused: the later of two keepers must win whichever arrives last. A gate that cannot
-- be read has none, as look says too. Keys are unlinked before they are written, for one of another type may be there.

local ITEM = 7
local DIGITS_MAX = 15   -- as in look: an epoch longer than that is damage
local base = string.sub(KEYS[1], 1, -5)
local run_id, epoch, stamp, items = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

local gate = {}
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
  gate = redis.call('HMGET', KEYS[1], 'epoch', 'skus')
end
local old = 0
if gate[1] and #gate[1] <= DIGITS_MAX and string.match(gate[1], '^%d+$') then
  old = tonumber(gate[1])
end
if epoch <= old then
  return {0, old}
end

for sku in string.gmatch(gate[2] or '', '%S+') do
  redis.call('UNLINK', base .. 'stock:' .. sku)
end
redis.call('UNLINK', base .. 'pending', base .. 'pending_at', base .. 'pending_purchase', base .. 'pending_buyer',
  base .. 'won', KEYS[1])
local skus = {}
for item = 1, items do
  local at = 5 + (item - 1) * ITEM
  skus[item] = ARGV[at]
  redis.call('UNLINK', base .. 'stock:' .. ARGV[at])
  redis.call('HSET', base .. 'stock:' .. ARGV[at], 'available', ARGV[at + 1], 'pending', 0, 'cursor', ARGV[at + 2],
    'stamp_ms', stamp, 'state', ARGV[at + 3], 'opens_ms', ARGV[at + 4], 'closes_ms', ARGV[at + 5], 'limit', ARGV[at + 6])
end
for i = 5 + items * ITEM, #ARGV do
  redis.call('SADD', base .. 'won', ARGV[i])
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'run_id', run_id, 'skus', table.concat(skus, ' '))
return {1, epoch}
