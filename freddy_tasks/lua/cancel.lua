-- The wish to cancel, as a fact: no poll passes it, and it outlives every worker.
-- ARGV: id, even_unseen ('1': fence an id that was never seen, too), nonce
local id = ARGV[6]
local key = key_of(id)
local state = redis.call('HMGET', key, 'phase', 'holder', 'cancelled_by', 'was', 'after')
local phase = state[1]
if state[3] == ARGV[8] then return { 'cancelling', state[4] } end -- the first reply to this call was lost on the way
if not phase and ARGV[7] ~= '1' then return { 'fenced', 'unknown' } end
if not phase then
  redis.call('HSET', key, 'phase', 'cancelled', 'generation', 0, 'holder', '')
  redis.call('EXPIRE', key, CLOSED_TTL)
  return { 'fenced', 'unknown' }
end
if phase == 'cancelling' then return { 'cancelling', phase } end
if phase == 'settled' and state[5] == 'suspended' then -- Celery is being told; then it is not kept, but cancelled
  redis.call('HSET', key, 'after', 'cancelling', 'cancelled_by', ARGV[8], 'was', phase)
  redis.call('HDEL', key, 'body')
  return { 'cancelling', phase }
end
if phase == 'closed' or phase == 'settled' or phase == 'cancelled' then
  return { 'fenced', phase }
end
redis.call('HSET', key, 'cancel', '1', 'cancelled_by', ARGV[8], 'was', phase)
if phase == 'sent' and state[2] == 'claimed' then return { 'cancelling', 'sent' } end
redis.call('ZREM', SUSPENDED, id)
redis.call('HINCRBY', key, 'generation', 1)
redis.call('HSET', key, 'phase', 'cancelling', 'holder', '')
redis.call('HDEL', key, 'body', 'outcome', 'lost')
if phase == 'suspended' then redis.call('HSET', key, 'abandoned', '1') end
schedule(id, now)
return { 'cancelling', phase }
