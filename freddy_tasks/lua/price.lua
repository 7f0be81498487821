-- The price of a poll, as a multiple of the usual one: 1 while requests are plenty.
-- ARGV: stretch
if tonumber(ARGV[6]) > 1 then
  redis.call('HSET', KEYS[1], 'stretch', ARGV[6])
else
  redis.call('HDEL', KEYS[1], 'stretch')
end
return { 'priced' }
