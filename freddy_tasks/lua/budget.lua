-- The plan's requests, shared by every process that uses one key.
-- KEYS[1] bucket, KEYS[2] the last day's counts.
-- ARGV[1] requests a second (0: no limit), ARGV[2] requests at once, ARGV[3] requests a day (0: no limit).

local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local rate, capacity, per_day = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local SLOT, SLOTS, DAY = 900, 96, 86400
local tokens, paused_until, spent_today, slot, stretch

local function recount_day()
  local total, expired = 0, {}
  local counts = redis.call('HGETALL', KEYS[2])
  for i = 1, #counts, 2 do
    if tonumber(counts[i]) < slot - SLOTS then
      expired[#expired + 1] = counts[i]
    else
      total = total + tonumber(counts[i + 1])
    end
  end
  if #expired > 0 then redis.call('HDEL', KEYS[2], unpack(expired)) end
  return total
end

local function load_budget()
  local state = redis.call('HMGET', KEYS[1], 'tokens', 'updated', 'paused_until', 'slot', 'spent', 'rate', 'prices')
  rate = math.min(rate > 0 and rate or math.huge, tonumber(state[6]) or math.huge)
  paused_until = tonumber(state[3]) or 0
  stretch = state[7] or '1 1 1' -- the price of a poll, by lane
  local elapsed = math.max(0, now - (tonumber(state[2]) or now)) -- none yet after a pause to come
  if rate == math.huge then
    tokens = math.huge
  else
    tokens = math.min(capacity, (tonumber(state[1]) or capacity) + elapsed * rate)
  end
  slot = math.floor(now / SLOT)
  spent_today = 0
  if per_day > 0 then
    spent_today = tonumber(state[4]) == slot and tonumber(state[5]) or recount_day()
  end
end

local function is_limited() return rate < math.huge or per_day > 0 or paused_until > now end

-- How many requests may leave at this moment.
local function budget_room()
  if paused_until > now then return 0 end
  local left = per_day > 0 and per_day - spent_today or math.huge
  return math.max(0, math.min(math.floor(tokens), left))
end

-- Seconds until one request may leave.
local function budget_wait()
  local wait = math.max(0, paused_until - now)
  if tokens < 1 then wait = math.max(wait, (1 - tokens) / rate) end
  if per_day > 0 and spent_today >= per_day then wait = math.max(wait, (slot + 1) * SLOT - now) end
  return wait
end

local function keep_tokens()
  if tokens == math.huge then return end
  redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tokens),
    'updated', string.format('%.6f', math.max(now, paused_until)))
  redis.call('EXPIRE', KEYS[1], 2 * DAY)
end

local function budget_take(count)
  if count == 0 or (rate == math.huge and per_day == 0) then return end
  tokens = tokens - count
  spent_today = spent_today + count
  keep_tokens()
  if per_day > 0 then
    redis.call('HSET', KEYS[1], 'slot', slot, 'spent', spent_today)
    redis.call('HINCRBY', KEYS[2], slot, count)
    redis.call('EXPIRE', KEYS[2], 2 * DAY)
  end
  redis.call('EXPIRE', KEYS[1], 2 * DAY)
end

-- A request for a job whose own was taken, and counted for the day, too long ago to leave by it: it may borrow the
-- next that comes free. Otherwise, behind a slow queue, all would be taken by jobs that find them too old.
local function budget_borrow()
  if paused_until > now or tokens < 0 then return false end
  tokens = tokens - 1
  keep_tokens()
  return true
end

-- A request that was taken, and did not leave.
local function budget_return()
  if tokens < math.huge then
    tokens = math.min(capacity, tokens + 1)
    keep_tokens()
  end
  if per_day > 0 and spent_today > 0 then
    spent_today = spent_today - 1
    redis.call('HSET', KEYS[1], 'slot', slot, 'spent', spent_today)
    redis.call('HINCRBY', KEYS[2], slot, -1)
    redis.call('EXPIRE', KEYS[1], 2 * DAY)
    redis.call('EXPIRE', KEYS[2], 2 * DAY)
  end
end

load_budget()
