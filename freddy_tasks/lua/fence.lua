-- Let no message of an id that was never seen here make a request, if it turns up after all.
-- ARGV: id
local key = key_of(ARGV[6])
if redis.call('EXISTS', key) == 1 then return { 'known' } end
redis.call('HSET', key, 'phase', 'cancelled', 'generation', 0, 'holder', '', 'lost', '1')
redis.call('EXPIRE', key, CLOSED_TTL)
return { 'fenced' }
