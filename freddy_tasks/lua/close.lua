-- Celery has the outcome: forget it here, and keep the id as a fence.
-- ARGV: id, generation
local id = ARGV[6]
local refused = refusal(id, ARGV[7])
if refused then return refused end
local key = key_of(id)
local state = redis.call('HMGET', key, 'phase', 'after')
if state[1] ~= 'settled' and state[1] ~= 'cancelling' then return { 'fenced', state[1] or 'gone' } end
redis.call('HDEL', key, 'outcome', 'lost')
unschedule(id)
if state[1] == 'settled' and state[2] == 'suspended' then
  redis.call('HSET', key, 'phase', 'suspended', 'holder', '')
  redis.call('ZADD', SUSPENDED, seconds(now), id)
  redis.call('ZREMRANGEBYSCORE', SUSPENDED, '-inf', seconds(now - ttl)) -- their records are gone
  redis.call('EXPIRE', SUSPENDED, ttl)
  redis.call('EXPIRE', key, ttl)
  return { 'suspended', '' }
end
if state[1] == 'settled' and state[2] == 'cancelling' then
  redis.call('HSET', key, 'phase', 'cancelling', 'holder', '', 'after', 'closed', 'abandoned', '1')
  schedule(id, now)
  return { 'cancelling', '' }
end
redis.call('HSET', key, 'phase', 'closed', 'holder', '')
redis.call('HDEL', key, 'options', 'after')
redis.call('EXPIRE', key, CLOSED_TTL)
return { 'closed', '' }
