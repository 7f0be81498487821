-- One hash per task id, one alarm clock for all of them. Follows budget.lua, whose `now` it uses.
-- KEYS[3] prefix of every ledger key: keys of jobs are derived from it, so Redis Cluster is not supported.
-- ARGV[4] seconds a record outlives its last change, ARGV[5] seconds a prepaid request stays valid.
--
-- phase       what is to be done next: queued (submit), sent (a submit whose outcome nobody knows yet),
--             waiting (poll), settled (store the kept outcome), cancelling; suspended and closed: nothing
-- generation  goes up with each publish; only the holder of the newest one may write
-- holder      '' in the waiting room, 'published' in the broker, 'claimed' by a task that runs
-- lost        '1' since a lease ran out: the last hop was lost, or died, or only took long
-- abandoned   '1' when Celery has an outcome already: only the API is still to be told
-- begun       the moment from which its age counts, and its timeout too where that is for the whole
-- send_by     the moment after which its prompt is not sent any more, unless it was before
-- deadline    send_by until it is sent (started '0'), and from then on the moment at which it fails
-- due         every job that is not suspended or closed is in this sorted set: the moment at which, at the
--             latest, something happens to it (a poll, a lease that runs out, a deadline)
-- ready:*     jobs that are due and wait for one of the plan's requests, by lane, then by age; behind the last lane,
--             asleep, prompts whose moment to line up has not come

local function seconds(moment) return string.format('%.6f', moment) end

local prefix, ttl, ticket_life = KEYS[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local DUE, SUSPENDED, WAKE = prefix .. ':due', prefix .. ':suspended', prefix .. ':wake'
local READY = { submit = prefix .. ':ready:submit', look = prefix .. ':ready:look' }
local CLOSED_TTL = 86400 * 2
-- How many; how far apart their scores are in the ready lines. With 1e11 two of a moment would have one score.
local LANES, LANE = 3, 1e10
local AWAKE = '(' .. seconds(LANES * LANE)
local wakes_others = true -- pop's own changes need not wake the dispatcher that pops

local function key_of(id) return prefix .. ':job:' .. id end

local function keep(id, moment)
  local life = math.ceil(math.max(ttl, moment - now + ttl))
  redis.call('EXPIRE', key_of(id), life)
  if redis.call('TTL', DUE) < life then redis.call('EXPIRE', DUE, life) end
end

-- Set the alarm of a job, and wake the dispatchers when it is now the first to ring.
local function schedule(id, moment)
  redis.call('ZREM', READY.submit, id)
  redis.call('ZREM', READY.look, id)
  redis.call('ZADD', DUE, seconds(moment), id)
  if wakes_others and redis.call('ZRANK', DUE, id) == 0 then redis.call('PUBLISH', WAKE, '') end
  keep(id, moment)
end

local function unschedule(id)
  redis.call('ZREM', DUE, id)
  redis.call('ZREM', READY.submit, id)
  redis.call('ZREM', READY.look, id)
end

local function stand_in(line, id, score, until_moment)
  redis.call('ZADD', line, seconds(score), id)
  local life = math.ceil(math.max(ttl, until_moment - now + ttl))
  if redis.call('TTL', line) < life then redis.call('EXPIRE', line, life) end
end

local function awake(line) return redis.call('ZCOUNT', line, '-inf', AWAKE) end

-- Line up for one of the plan's requests; the alarm moves to the deadline. A cancel has none: it waits its turn.
-- A prompt that comes back has the place of its age: its timeout may run already.
local function line_up(id, phase, lane, deadline)
  local line = phase == 'queued' and READY.submit or READY.look
  local score = tonumber(redis.call('ZSCORE', line, id) or LANES * LANE)
  if score >= LANES * LANE then
    local age = phase == 'queued' and tonumber(redis.call('HGET', key_of(id), 'begun')) or now
    stand_in(line, id, tonumber(lane) * LANE + age, deadline)
  end
  if wakes_others and awake(line) == 1 then redis.call('PUBLISH', WAKE, '') end
  redis.call('HSET', key_of(id), 'holder', '', 'ticket', '0')
  redis.call('ZADD', DUE, seconds(math.max(deadline, now + (phase == 'cancelling' and 60 or 1))), id)
  keep(id, deadline)
end

-- Stand aside until `moment`, on which nobody counts: neither as one in flight nor as one that waits.
local function sleep_until(id, moment, deadline)
  schedule(id, math.min(moment, deadline))
  stand_in(READY.submit, id, LANES * LANE + moment, moment)
end

-- Does the next step of a job need a request? The cancel of what was never accepted is nothing to the API.
local function costs_a_request(phase, job)
  if phase == 'cancelling' then return cjson.decode(job or '{}').response_id ~= nil end
  return phase == 'queued' or phase == 'waiting'
end

-- May a submit leave, after `taken` more requests? The last of the day are for those in flight: each needs a look
-- yet, and a submit that took it would wait a day for its own.
local function may_submit(taken)
  local in_flight = redis.call('ZCARD', DUE) - redis.call('ZCARD', READY.submit)
  return per_day == 0 or in_flight <= 0 or per_day - spent_today - taken > in_flight + 1
end

-- Does the caller hold this job? Answers nil, or why not.
local function refusal(id, generation)
  local state = redis.call('HMGET', key_of(id), 'generation', 'holder', 'phase')
  if not state[1] then return { 'gone', '' } end
  if state[1] ~= generation or state[2] ~= 'claimed' then return { 'fenced', state[3] } end
  return nil
end

-- The record of a prompt that was never seen before; its deadline.
local function record_submit(id, phase, body, options, job, lane, timeout, whole, begun, send_by)
  local is_sent = phase == 'sent'
  local deadline = is_sent and now + timeout or send_by
  redis.call('HSET', key_of(id), 'phase', phase, 'generation', 1, 'holder', '', 'body', body, 'options', options,
    'job', job, 'lane', lane, 'timeout', timeout, 'whole', whole and '1' or '0', 'begun', seconds(begun),
    'send_by', seconds(send_by), 'deadline', seconds(deadline), 'started', is_sent and '1' or '0', 'attempts', 0)
  return deadline
end
