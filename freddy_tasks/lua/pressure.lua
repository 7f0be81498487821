-- How hard the budget binds, for the one dispatcher in a second that is to answer it with a price.
-- ARGV: least seconds between two answers
local seen = redis.call('HMGET', KEYS[1], 'priced', 'stretch')
local priced = tonumber(seen[1]) or (now - 1)
local due = rate < math.huge or per_day > 0 or seen[2]
if not due or now - priced < tonumber(ARGV[6]) then return {} end
redis.call('HSET', KEYS[1], 'priced', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], 2 * DAY)

local waiting = redis.call('ZCARD', READY.submit) + redis.call('ZCARD', READY.look)
local backlog = 0
if waiting > 0 or tokens < 1 then backlog = budget_wait() end
if waiting > 1 and rate < math.huge then backlog = backlog + (waiting - 1) / rate end
local day_left = per_day > 0 and math.max(0, per_day - spent_today) / per_day or 1
return { seen[2] or '1', tostring(backlog), tostring(day_left), tostring(now - priced) }
