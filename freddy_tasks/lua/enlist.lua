-- A prompt that no message brings: it lines up for its submit, and whoever pops it publishes the first message.
-- ARGV: id, body, options, job, lane, timeout, whole ('1': the timeout runs from when it lines up), admission,
-- patience (s from now within which it must have been sent, or ''), delay (s until it lines up)
local id, lane = ARGV[6], tonumber(ARGV[10])
local timeout, whole, patience, delay = tonumber(ARGV[11]), ARGV[12] == '1', tonumber(ARGV[14]), tonumber(ARGV[15])
local phase = redis.call('HGET', key_of(id), 'phase')
if phase then return { phase } end
local begun = now + delay
local send_by = begun + (whole and timeout or tonumber(ARGV[13]))
if patience then send_by = math.min(send_by, now + patience) end
record_submit(id, 'queued', ARGV[7], ARGV[8], ARGV[9], lane, timeout, whole, begun, send_by)
if begun > now or send_by <= now then
  sleep_until(id, begun, send_by)
else
  line_up(id, 'queued', lane, send_by)
end
return { 'queued' }
