-- How hard the budget binds, for the one dispatcher in a second that is to answer it with a price.
-- ARGV: least seconds between two answers, seconds for which the word of an app on its own line is believed
--
-- Apps that share a key have a prefix, and so lines, of their own, and pay the same price: each says in a hash
-- beside the bucket how many of its jobs wait, and the line is the sum. A lane's line is all that goes before its
-- last: what stands behind takes nothing from it, and makes none of its polls dearer.
local LINES, patience = KEYS[1] .. ':lines', tonumber(ARGV[7])
local seen = redis.call('HMGET', KEYS[1], 'priced', 'prices')
if rate == math.huge and per_day == 0 and not seen[2] then return {} end
local own = {}
for lane = 1, LANES do
  local last = '(' .. seconds(lane * LANE)
  own[lane] = redis.call('ZCOUNT', READY.submit, '-inf', last) + redis.call('ZCOUNT', READY.look, '-inf', last)
end
redis.call('HSET', LINES, prefix, string.format('%.6f %s', now, table.concat(own, ' ')))
redis.call('EXPIRE', LINES, patience)

local priced = tonumber(seen[1]) or (now - 1)
if now - priced < tonumber(ARGV[6]) then return {} end
redis.call('HSET', KEYS[1], 'priced', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], 2 * DAY)

local waiting, silent = {}, {}
for lane = 1, LANES do waiting[lane] = 0 end
local told = redis.call('HGETALL', LINES)
for i = 1, #told, 2 do
  local moment, counts = string.match(told[i + 1], '(%S+) (.+)')
  if math.abs(now - tonumber(moment)) > patience then -- nobody takes from its line, which asks for nothing then
    silent[#silent + 1] = told[i]
  else
    local lane = 0
    for count in string.gmatch(counts, '%d+') do
      lane = lane + 1
      waiting[lane] = waiting[lane] + tonumber(count)
    end
  end
end
if #silent > 0 then redis.call('HDEL', LINES, unpack(silent)) end
local backlogs = {}
for lane = 1, LANES do
  local backlog = 0
  if waiting[lane] > 0 or tokens < 1 then backlog = budget_wait() end
  if waiting[lane] > 1 and rate < math.huge then backlog = backlog + (waiting[lane] - 1) / rate end
  backlogs[lane] = tostring(backlog)
end
local day_left = per_day > 0 and math.max(0, per_day - spent_today) / per_day or 1
return { stretch, table.concat(backlogs, ' '), tostring(day_left), tostring(now - priced) }
