-- Take what is due out of the waiting room for publishing, and leave a lease behind for each.
-- ARGV: most, lease, submits (at the most, of those that line up)
local most, lease, submits = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local released = {}
wakes_others = false

local function release(id, ticket)
  local key = key_of(id)
  local state = redis.call('HMGET', key, 'phase', 'job', 'options', 'body', 'deadline', 'lost')
  if not state[1] then -- its record was evicted or deleted: the poll that finds none ends the task and says so
    unschedule(id)
    released[#released + 1] = { id, 0, 'waiting', '{"model":""}', '', '', '0', '1' }
    return 0
  end
  local generation = redis.call('HINCRBY', key, 'generation', 1)
  local attempts = redis.call('HINCRBY', key, 'attempts', 1)
  redis.call('HSET', key, 'holder', 'published', 'ticket', ticket)
  -- A backlog in the broker looks like a lost message: double the lease, so that it is not fed.
  schedule(id, now + lease * 2 ^ math.min(attempts - 1, 6))
  local is_to_be_sent = state[1] == 'queued' and now < tonumber(state[5])
  local body = (is_to_be_sent or state[1] == 'sent') and state[4] or ''
  released[#released + 1] = { id, generation, state[1], state[2], state[3] or '', body or '', state[5], state[6] or '' }
  return 1
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, most)) do
  local state = redis.call('HMGET', key_of(id), 'phase', 'lane', 'deadline', 'holder', 'job', 'abandoned')
  local deadline = tonumber(state[3]) or 0
  if state[4] == 'published' or state[4] == 'claimed' then redis.call('HSET', key_of(id), 'lost', '1') end
  local cancelling = state[1] == 'cancelling'
  -- A cancel goes to Celery first, at once; it is the API that waits to be told.
  local may_wait = cancelling and state[6] == '1' or not cancelling and now < deadline
  local has_a_line = is_limited() or state[1] == 'queued' -- of which no more than `submits` may leave
  if has_a_line and costs_a_request(state[1], state[5]) and may_wait then
    line_up(id, state[1], cancelling and 0 or state[2], deadline)
  else
    release(id, '0')
  end
end

-- Polls and submits take turns: a response needs one of each, and neither may starve the other.
local room, taken, turn = budget_room(), 0, redis.call('HGET', KEYS[1], 'turn') or 'look'
while room - taken >= 1 and #released < most do
  local other = turn == 'look' and 'submit' or 'look'
  local id, line
  for _, kind in ipairs({ turn, other }) do
    if not id and (kind == 'look' or submits > 0 and may_submit(taken)) then
      line = READY[kind]
      id = redis.call('ZRANGEBYSCORE', line, '-inf', AWAKE, 'LIMIT', 0, 1)[1]
    end
  end
  if not id then break end
  if line == READY.submit then submits = submits - 1 end
  redis.call('ZREM', line, id)
  taken = taken + release(id, seconds(now))
  turn = other
end
if taken > 0 then
  budget_take(taken)
  redis.call('HSET', KEYS[1], 'turn', turn)
  redis.call('EXPIRE', KEYS[1], 2 * DAY) -- a plan without limits keeps no other books
end

local waiting = awake(READY.submit) + awake(READY.look)
local first = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')[2]
local wait = first and tonumber(first) - now or -1
if waiting > 0 then
  local turn_in = budget_wait()
  local withheld = redis.call('ZCARD', READY.look) == 0 and not may_submit(0)
  if withheld then turn_in = math.max(turn_in, (slot + 1) * SLOT - now) end
  wait = wait < 0 and turn_in or math.min(wait, turn_in)
end
return { seconds(now), tostring(wait), waiting, released }
