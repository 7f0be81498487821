-- The id of an accepted response, from a submit whose lease ran out before it could be written: the API tells it
-- only once, so it is kept whoever holds the job now.
-- ARGV: id, job, delay
local id, job, delay = ARGV[6], ARGV[7], tonumber(ARGV[8])
local key = key_of(id)
local phase, holder, known, deadline = unpack(redis.call('HMGET', key, 'phase', 'holder', 'job', 'deadline'))
if not phase then return { 'gone', '' } end
local known_id, new_id = cjson.decode(known or '{}').response_id, cjson.decode(job).response_id
if phase == 'waiting' and known_id == new_id then -- the first reply to the same call was lost on the way
  local due = redis.call('ZSCORE', DUE, id) or seconds(now)
  keep(id, tonumber(due)) -- replicas can only confirm a call that writes
  return { 'parked', due, phase }
end
if known_id or phase == 'cancelled' then return { 'fenced', phase } end
local unjudged = phase == 'sent' or phase == 'queued'
if unjudged and holder == 'claimed' then return { 'fenced', phase } end -- ask again when it has been
redis.call('HDEL', key, 'body')
redis.call('HSET', key, 'job', job)
if phase == 'closed' then -- nobody waits for it, and it runs at the API
  phase = 'cancelling'
  redis.call('HSET', key, 'phase', phase, 'abandoned', '1')
end
if phase == 'cancelling' then -- another hop of it, as one that is under way knows no id to cancel
  redis.call('HINCRBY', key, 'generation', 1)
  redis.call('HSET', key, 'holder', '')
  schedule(id, now)
end
if not unjudged then return { 'fenced', phase } end
phase = redis.call('HGET', key, 'cancel') == '1' and 'cancelling' or 'waiting'
local moment = phase == 'cancelling' and now or math.min(now + delay, math.max(tonumber(deadline), now))
redis.call('HINCRBY', key, 'generation', 1)
redis.call('HSET', key, 'phase', phase, 'holder', '', 'attempts', 0)
redis.call('HDEL', key, 'lost')
schedule(id, moment)
return { 'parked', seconds(moment), phase }
