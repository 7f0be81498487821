-- The holder of an intent to submit gives it back, as nothing was sent: no clock runs, and its request is free again.
-- ARGV: id, generation, shortest pause, longest pause
local id, generation = ARGV[6], ARGV[7]
local shortest, longest = tonumber(ARGV[8]), tonumber(ARGV[9])
local refused = refusal(id, generation)
if refused then return refused end
local key = key_of(id)
local phase, cancel, send_by = unpack(redis.call('HMGET', key, 'phase', 'cancel', 'send_by'))
if phase ~= 'sent' then return { 'fenced', phase } end
budget_return()
local times = redis.call('HINCRBY', key, 'unsent', 1)
local moment = now + math.min(longest, shortest * 2 ^ (times - 1))
if cancel == '1' then
  phase, moment = 'cancelling', now
  redis.call('HDEL', key, 'body')
else
  phase = 'queued'
  redis.call('HSET', key, 'started', '0', 'deadline', send_by)
  moment = math.min(moment, math.max(tonumber(send_by), now))
end
redis.call('HSET', key, 'phase', phase, 'holder', '')
redis.call('HDEL', key, 'lost')
schedule(id, moment)
return { 'parked', seconds(moment), phase, times }
