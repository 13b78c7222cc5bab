-- look: one consistent read for upkeep, and an examination of the keys. Writes nothing, and fails on nothing it may find.
--
--   KEYS[1]  {sale}:gate         hash   epoch, run_id
--   derived  {sale}:stock:<sku>  hash   available, cursor; every other number is only examined
--            {sale}:pending      hash   rid -> "purchase buyer sku=quantity ..."
--            {sale}:pending_at   zset   rid -> ms
--            {sale}:pending_purchase, {sale}:pending_buyer, {sale}:won    examined only
--   ARGV     run_id of the caller's connection, how many pending attempts to list, their least age in ms, then SKUs
--   RETURNS  {now_ms, epoch or 0, 1 when the gate was initialised on this Redis else 0, number of pending attempts,
--            {cursor or -1, available per SKU}, {rid, record per pending attempt, oldest first}, '' or the damage}
--            with damage there are no items and no attempts; the epoch is there if it can be read
--
-- A key of another type, or a word where a number should be, makes the other scripts fail for ever; only a rebuild helps.

local DIGITS_MAX = 15   -- a Lua number is exact that far; no count, seq or time here is longer
local KINDS = {pending = 'hash', pending_at = 'zset', pending_purchase = 'hash', pending_buyer = 'hash',
  won = 'set'}
local NUMBERS = {'cursor', 'available', 'pending', 'stamp_ms', 'opens_ms', 'closes_ms', 'limit'}

local base = string.sub(KEYS[1], 1, -5)
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function is_number(value)
  return value and #value <= DIGITS_MAX and string.match(value, '^%-?%d+$')
end

local damage = ''
-- Is there such a key, of this kind?
local function is_there(name, kind)
  local found = redis.call('TYPE', base .. name).ok
  if found ~= kind and found ~= 'none' then
    damage = name .. ' is no ' .. kind
  end
  return found == kind
end

for name, kind in pairs(KINDS) do
  is_there(name, kind)
end
local gate = {}
if is_there('gate', 'hash') then
  gate = redis.call('HMGET', KEYS[1], 'epoch', 'run_id')
end
local epoch = 0
if gate[1] then
  if is_number(gate[1]) and tonumber(gate[1]) >= 0 then
    epoch = tonumber(gate[1])
  else
    damage = 'the epoch is no number'
  end
end

local items = {}
for i = 4, #ARGV do
  local name, stock = 'stock:' .. ARGV[i], {}
  if is_there(name, 'hash') then
    stock = redis.call('HMGET', base .. name, unpack(NUMBERS))
    for at, field in ipairs(NUMBERS) do
      if not is_number(stock[at]) then
        damage = field .. ' of ' .. name .. ' is no number'
      end
    end
  end
  items[#items + 1] = tonumber(stock[1] or -1)
  items[#items + 1] = tonumber(stock[2] or 0)
end

local same_run = gate[2] == ARGV[1] and 1 or 0
if damage ~= '' then
  return {now, epoch, same_run, 0, {}, {}, damage}
end
local listed = {}
local rids = redis.call('ZRANGEBYSCORE', base .. 'pending_at', '-inf', now - tonumber(ARGV[3]), 'LIMIT', 0, tonumber(ARGV[2]))
for _, rid in ipairs(rids) do
  listed[#listed + 1] = rid
  listed[#listed + 1] = redis.call('HGET', base .. 'pending', rid)
end
return {now, epoch, same_run, redis.call('HLEN', base .. 'pending'), items, listed, ''}
