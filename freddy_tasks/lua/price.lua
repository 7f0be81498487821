-- The price of a poll for each lane, as a multiple of the usual one: 1 while requests are plenty.
-- ARGV: stretch of each lane, the most urgent one first, with blanks between
if ARGV[6] ~= '1 1 1' then
  redis.call('HSET', KEYS[1], 'stretch', ARGV[6])
else
  redis.call('HDEL', KEYS[1], 'stretch')
end
return { 'priced' }
