-- A worker that stops will not carry out this hop, or has killed its task: its lease ends now. Not that of a submit on
-- its way, which may still arrive, and whose id is told to nobody else.
-- ARGV: id, generation
local id = ARGV[6]
local generation, holder, phase = unpack(redis.call('HMGET', key_of(id), 'generation', 'holder', 'phase'))
if generation ~= ARGV[7] or holder == '' or phase == 'sent' then return { 'fenced' } end
schedule(id, now)
return { 'handed_back' }
