-- Take up a suspended job again: poll it (it has a response id), or submit it again (it has none).
-- ARGV: id, phase (waiting or queued), timeout, options, nonce
local id, phase, timeout = ARGV[6], ARGV[7], tonumber(ARGV[8])
local key = key_of(id)
local state, job, revival = unpack(redis.call('HMGET', key, 'phase', 'job', 'revival'))
if revival == ARGV[10] then return { 'revived', phase } end -- the first reply to this call was lost on the way
if state ~= 'suspended' then return { 'fenced', state or 'gone' } end
if phase == 'queued' and redis.call('HEXISTS', key, 'body') == 0 then return { 'fenced', 'submitted' } end
if phase == 'waiting' and not cjson.decode(job).response_id then return { 'fenced', 'unsubmitted' } end
redis.call('ZREM', SUSPENDED, id)
redis.call('HINCRBY', key, 'generation', 1)
redis.call('HDEL', key, 'outcome', 'lost')
redis.call('HSET', key, 'phase', phase, 'holder', '', 'started', '1', 'whole', '1',
  'timeout', timeout, 'begun', seconds(now), 'send_by', seconds(now + timeout), 'deadline', seconds(now + timeout),
  'options', ARGV[9], 'revival', ARGV[10])
schedule(id, now)
return { 'revived', phase }
