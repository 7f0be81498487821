-- A prompt that no message brings: it lines up for its submit, and whoever pops it publishes the first message.
-- ARGV: id, body, options, job, lane, timeout, whole ('1': the timeout runs from here), patience, delay
local id, lane = ARGV[6], tonumber(ARGV[10])
local timeout, whole, delay = tonumber(ARGV[11]), ARGV[12] == '1', tonumber(ARGV[14])
local phase = redis.call('HGET', key_of(id), 'phase')
if phase then return { phase } end
local deadline = now + tonumber(ARGV[13])
if whole then deadline = math.min(deadline, now + timeout) end
record_submit(id, 'queued', ARGV[7], ARGV[8], ARGV[9], lane, timeout, whole, whole, deadline)
if delay > 0 then
  schedule(id, math.min(now + delay, deadline))
else
  line_up(id, 'queued', lane, deadline)
end
return { 'queued' }
