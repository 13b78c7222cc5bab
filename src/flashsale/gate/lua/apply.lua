-- apply: move the copy of one SKU along its ledger. Any number of appliers may run; the cursor admits one per row.
--
--   KEYS[1]  {sale}:gate         hash   epoch, run_id
--   derived  {sale}:stock:<sku>  hash   available, cursor, stamp_ms, state, opens_ms, closes_ms, limit
--            {sale}:won          set    purchases ever held
--   ARGV     run_id of the caller's connection, epoch the rows were judged under, sku, cursor the rows follow,
--            latest seq of the SKU in the snapshot, stamp_ms (Redis time before that snapshot was read),
--            state, opens_ms, closes_ms, limit in it,
--            then per row: seq, delta, own (1: a hold debited here under this epoch), purchase of a hold or ''
--   RETURNS  {applied | behind | stale, cursor}
--            behind: another applier was faster, or the rows do not follow the cursor
--
-- Every row's delta counts except that of the gate's own holds, which reserve already took. Purchase ids enter won with the
-- row, because a hold another backend made never was pending here.

local base = string.sub(KEYS[1], 1, -5)
local run_id, epoch, sku = ARGV[1], ARGV[2], ARGV[3]
local cursor, latest, stamp = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local key = base .. 'stock:' .. sku

local gate = redis.call('HMGET', KEYS[1], 'epoch', 'run_id')
local stock = redis.call('HMGET', key, 'cursor', 'stamp_ms')
local here = tonumber(stock[1] or -1)
if gate[1] ~= epoch or gate[2] ~= run_id or here < 0 then
  return {'stale', here}
end
if here ~= cursor then
  return {'behind', here}
end
local units, won = 0, {}
for i = 11, #ARGV, 4 do
  if tonumber(ARGV[i]) ~= cursor + 1 then
    return {'behind', here}
  end
  cursor = cursor + 1
  if ARGV[i + 2] ~= '1' then
    units = units + tonumber(ARGV[i + 1])
  end
  if ARGV[i + 3] ~= '' then
    won[#won + 1] = ARGV[i + 3]
  end
end

-- A snapshot further on than the rows proves nothing about the copy: state and stamp wait for the last row. Every change of
-- state is a row of its own, so the state of an equal seq is the same state; the stamp of a slower applier may be the older.
if cursor == latest then
  redis.call('HSET', key, 'stamp_ms', math.max(stamp, tonumber(stock[2])), 'state', ARGV[7], 'opens_ms', ARGV[8],
    'closes_ms', ARGV[9], 'limit', ARGV[10])
end
if cursor > here then
  redis.call('HINCRBY', key, 'available', units)
  redis.call('HSET', key, 'cursor', cursor)
end
for _, purchase in ipairs(won) do
  redis.call('SADD', base .. 'won', purchase)
end
return {'applied', cursor}
