-- The holder keeps the outcome before Celery stores it: from here on no request is made for it again.
-- ARGV: id, generation, outcome, job, after (closed; suspended: may be taken up again; cancelling: then cancel), lease
local id, generation, lease = ARGV[6], ARGV[7], tonumber(ARGV[11])
local refused = refusal(id, generation)
if refused then return refused end
local key = key_of(id)
if redis.call('HGET', key, 'cancel') == '1' then
  redis.call('HSET', key, 'phase', 'cancelling', 'job', ARGV[9], 'holder', '')
  redis.call('HDEL', key, 'body')
  schedule(id, now)
  return { 'fenced', 'cancelling' }
end
redis.call('HSET', key, 'phase', 'settled', 'outcome', ARGV[8], 'job', ARGV[9], 'after', ARGV[10])
-- Only a suspended submit may yet need its prompt.
if ARGV[10] ~= 'suspended' then redis.call('HDEL', key, 'body') end
schedule(id, now + lease)
return { 'settled', '' }
