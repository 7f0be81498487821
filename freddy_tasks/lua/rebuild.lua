-- Take up a response that the ledger has forgotten and somebody has the id of: it waits for its poll, due now.
-- ARGV: id, options, job, lane, timeout, nonce
local id, timeout, nonce = ARGV[6], tonumber(ARGV[10]), ARGV[11]
local key = key_of(id)
local phase, revival = unpack(redis.call('HMGET', key, 'phase', 'revival'))
if revival == nonce then return { 'revived', phase } end -- the first reply to this call was lost on the way
if phase then return { 'fenced', phase } end
redis.call('HSET', key, 'phase', 'waiting', 'generation', 1, 'holder', '', 'options', ARGV[7], 'job', ARGV[8],
  'lane', ARGV[9], 'timeout', timeout, 'deadline', seconds(now + timeout), 'started', '1', 'whole', '1',
  'attempts', 0, 'begun', seconds(now), 'revival', nonce)
schedule(id, now)
return { 'revived', 'waiting' }
