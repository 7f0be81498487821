-- The price of a poll for each lane, as a multiple of the usual one: 1 while requests are plenty.
-- ARGV: stretch of each lane, the most urgent one first, with blanks between
-- Not `stretch`: by that name older versions, which may still run, keep and read one number.
if ARGV[6] ~= '1 1 1' then
  redis.call('HSET', KEYS[1], 'prices', ARGV[6])
else
  redis.call('HDEL', KEYS[1], 'prices')
end
return { 'priced' }
