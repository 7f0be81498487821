-- The holder puts its job back into the waiting room.
-- ARGV: id, generation, phase (queued: submit again; waiting: poll; cancelling), job, delay
local id, generation, phase, job, delay = ARGV[6], ARGV[7], ARGV[8], ARGV[9], tonumber(ARGV[10])
local refused = refusal(id, generation)
if refused then return refused end
local key = key_of(id)
if redis.call('HGET', key, 'phase') == 'settled' then return { 'fenced', 'settled' } end -- nothing follows an outcome
if phase == 'cancelling' then redis.call('HSET', key, 'abandoned', '1') end -- the holder has told Celery
local deadline = tonumber(redis.call('HGET', key, 'deadline'))
if phase ~= 'cancelling' and redis.call('HGET', key, 'cancel') == '1' then
  phase, delay = 'cancelling', 0
end
if phase ~= 'queued' then redis.call('HDEL', key, 'body') end
redis.call('HSET', key, 'phase', phase, 'job', job, 'holder', '')
redis.call('HDEL', key, 'lost')
local moment = now + delay
if phase ~= 'cancelling' then moment = math.min(moment, math.max(deadline, now)) end
schedule(id, moment)
return { 'parked', seconds(moment), phase }
