-- Take up a suspended job again: poll it (it has a response id), or submit it again (it has none).
-- ARGV: id, phase (waiting or queued), timeout
local id, phase, timeout = ARGV[6], ARGV[7], tonumber(ARGV[8])
local key = key_of(id)
local state = redis.call('HGET', key, 'phase')
if state ~= 'suspended' then return { 'fenced', state or 'gone' } end
if phase == 'queued' and redis.call('HEXISTS', key, 'body') == 0 then return { 'fenced', 'submitted' } end
redis.call('ZREM', SUSPENDED, id)
redis.call('HINCRBY', key, 'generation', 1)
redis.call('HDEL', key, 'outcome', 'lost')
redis.call('HSET', key, 'phase', phase, 'holder', '', 'started', '1', 'deadline', seconds(now + timeout))
schedule(id, now)
return { 'revived', phase }
