-- The server's own word on the limit; it only ever makes us slower than the settings say.
-- ARGV: refused ('1' after a 429), pause (s the server named, or ''), limit (requests a minute, or ''), remaining (or '')
local refused, pause = ARGV[6] == '1', tonumber(ARGV[7])
local limit, remaining = tonumber(ARGV[8]), tonumber(ARGV[9])
local SAFETY, LONGEST_GUESS = 0.98, 60

if limit and limit > 0 then
  local theirs, ours = limit * SAFETY / 60, tonumber(ARGV[1])
  if ours == 0 or theirs < ours then
    redis.call('HSET', KEYS[1], 'rate', theirs)
  else
    redis.call('HDEL', KEYS[1], 'rate')
  end
end

local from = now
if refused then
  if now > paused_until + LONGEST_GUESS then redis.call('HDEL', KEYS[1], 'refusals') end
  if now > paused_until then -- those that left before the pause began are no further refusals
    local refusals = redis.call('HINCRBY', KEYS[1], 'refusals', 1)
    pause = pause or math.min(2 ^ (refusals - 1), LONGEST_GUESS)
  end
  paused_until = math.max(paused_until, now + (pause or 0))
  redis.call('HSET', KEYS[1], 'paused_until', string.format('%.6f', paused_until))
  -- Requests begin to come free when the pause ends, one after another: nobody storms the door.
  tokens, from = 0, paused_until
else
  redis.call('HDEL', KEYS[1], 'refusals')
  if remaining then tokens = math.min(tokens, remaining) end
end
if tokens < math.huge then
  redis.call('HSET', KEYS[1], 'tokens', string.format('%.6f', tokens), 'updated', string.format('%.6f', from))
end
redis.call('EXPIRE', KEYS[1], 2 * DAY)
return { 'heeded', tostring(math.max(0, paused_until - now)) }
