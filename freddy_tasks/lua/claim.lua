-- A published hop runs: it may act only when it holds the newest generation, and nobody else took it.
-- ARGV: id, generation, lease, nonce
local id, generation, lease, nonce = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9]
local key = key_of(id)
local fields = redis.call('HMGET', key, 'generation', 'holder', 'phase', 'ticket', 'deadline', 'started',
  'timeout', 'job', 'body', 'outcome', 'options', 'lane', 'nonce', 'cancel', 'lost', 'abandoned', 'claimed_as', 'may_ask',
  'whole', 'begun')
if not fields[1] then return { 'gone' } end
local phase, deadline = fields[3], tonumber(fields[5])
local function held(may_ask)
  return { 'held', seconds(now), phase, seconds(deadline), fields[8], fields[9] or '', fields[10] or '',
    fields[11] or '', may_ask, fields[14] or '', fields[15] or '', fields[16] or '', stretch }
end
if fields[1] ~= generation then return { 'fenced', phase } end
if fields[2] == 'claimed' and fields[13] == nonce then
  -- The same call again, after its first reply was lost on the way.
  phase = fields[17]
  schedule(id, now + lease)
  return held(tonumber(fields[18]))
end
if fields[2] ~= 'published' then return { 'fenced', phase } end

local costs = costs_a_request(phase, fields[8]) and (phase ~= 'queued' or now < deadline) -- none is sent too late
local ticket = tonumber(fields[4]) or 0
local may_ask = 1
if costs and now - ticket > ticket_life then
  local was_paid = ticket > 0
  if was_paid and budget_borrow() then
    may_ask = 1
  elseif not was_paid and budget_room() >= 1 then
    budget_take(1)
  elseif phase == 'cancelling' and fields[16] ~= '1' then
    may_ask = 0 -- enough to tell Celery
  elseif now < deadline or phase == 'cancelling' then
    redis.call('HSET', key, 'attempts', 0)
    line_up(id, phase, phase == 'cancelling' and 0 or fields[12], deadline)
    return { 'lined_up' }
  else
    may_ask = 0
  end
end
redis.call('HSET', key, 'holder', 'claimed', 'attempts', 0, 'nonce', nonce, 'claimed_as', phase,
  'may_ask', may_ask)
if phase == 'queued' and now < deadline then
  if fields[6] == '0' then deadline = (fields[19] == '1' and tonumber(fields[20]) or now) + tonumber(fields[7]) end
  redis.call('HSET', key, 'phase', 'sent', 'started', '1', 'deadline', seconds(deadline))
end
schedule(id, now + lease)
return held(may_ask)
