-- A submit arrives for the first time: record it and, when a request is free, write the intent to send it.
-- ARGV: id, body, options, job, lane, timeout, whole ('1': the timeout runs from here), lease, admission, nonce
local id, lane = ARGV[6], tonumber(ARGV[10])
local timeout, whole, lease, admission = tonumber(ARGV[11]), ARGV[12] == '1', tonumber(ARGV[13]), tonumber(ARGV[14])
local key = key_of(id)
local seen = redis.call('HMGET', key, 'phase', 'nonce', 'deadline', 'generation', 'holder')
if seen[1] then
  -- The same call again, after its first reply was lost on the way, and before its lease ran out.
  if seen[1] == 'sent' and seen[2] == ARGV[15] and seen[4] == '1' and seen[5] == 'claimed' then
    schedule(id, now + lease)
    return { 'granted', seconds(now), seen[3], stretch }
  end
  return { 'exists', seen[1] }
end

local ahead = redis.call('ZCARD', READY.look) > 0
  or redis.call('ZCOUNT', READY.submit, '-inf', '(' .. seconds((lane + 1) * LANE)) > 0
local granted = budget_room() >= 1 and may_submit(0) and not (is_limited() and ahead)
local deadline = record_submit(id, granted and 'sent' or 'queued', ARGV[7], ARGV[8], ARGV[9], lane, timeout, whole, now,
  now + (whole and timeout or admission))
redis.call('HSET', key, 'holder', 'claimed', 'nonce', ARGV[15])
if not granted then
  line_up(id, 'queued', lane, deadline)
  return { 'lined_up', seconds(now) }
end
budget_take(1)
schedule(id, now + lease)
return { 'granted', seconds(now), seconds(deadline), stretch }
