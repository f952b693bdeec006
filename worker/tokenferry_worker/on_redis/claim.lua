-- claim(KEYS = [token, journal of the order?], ARGV = [by, lease ms, ttl ms, lost, platform, mode, account, kind, account as well])
--   -> {granted | held | spent | burnt | expired | unknown | misfit | told, by, fence, again, object, type, stored, made, outcome}
-- {token}  hash: state (lifecycle.py), by = attach id, fence = number of the lease, until = server ms;
--          of a token made here, to whom it belongs: platform, mode, account, kind, and when it was made: made (Unix ms);
--          of a spent one, what it became: object, type, stored.
-- again: 1 where it was held and not given back, 2 where it was used by nobody knows whom, 3 where its making is not known.
-- The same claimant gets it again at any time: the delivery that had it is dead, or gives way as soon as it notices. For one
-- that has lost its lease (*lost*: its fence) a later one is another's while it lives, so that two never take turns for ever.
-- Another order gets it when it is free; where a lease ran out in the middle, nobody but its holder can find out what has
-- become of the token. An order that has its outcome (told) gets nothing any more.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'state', 'by', 'until', 'fence', 'object', 'type', 'stored', 'made')
local state, by, fence = held[1], held[2] or '', tonumber(held[4] or 0)
local function say(word, who, again, outcome)
  local number = string.format('%.0f', fence)
  return {word, who, number, again, held[5] or '', held[6] or '', held[7] or '', held[8] or '', outcome or ''}
end
local outcome = KEYS[2] and redis.call('HGET', KEYS[2], 'outcome')
if outcome then return say('told', ARGV[1], 0, outcome) end
local scope = redis.call('HMGET', KEYS[1], 'platform', 'mode', 'account', 'kind')
for i, name in ipairs({'platform', 'mode', 'account', 'kind'}) do
  local asked = ARGV[4 + i]
  if scope[i] and asked and scope[i] ~= asked and not (name == 'account' and scope[i] == ARGV[9]) then
    return say('misfit', name, 0)
  end
end
local mine = by == ARGV[1]
if state == 'spent' or state == 'burnt' or state == 'expired' then
  return say(state, by, mine and 1 or held[8] and 0 or 3)
end
local doubtful = state == 'leased' or state == 'unknown'
local lives = state == 'leased' and tonumber(held[3] or 0) > now
if doubtful and not mine and by ~= '' then
  if lives then return say('held', by, 0) end
  redis.call('HSET', KEYS[1], 'state', 'unknown')
  return say('unknown', by, 0)
end
if lives and fence > (tonumber(ARGV[4]) or fence) then return say('held', by, 0) end
-- No lower than the clock, in microseconds: the fences of leases from before a wipe stay the lower ones.
fence = math.max(fence + 1, clock[1] * 1000000 + clock[2])
redis.call('HSET', KEYS[1], 'state', 'leased', 'by', ARGV[1], 'fence', string.format('%.0f', fence),
  'until', string.format('%.0f', now + ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local again = 0
if doubtful then again = by ~= '' and 1 or 2 elseif not held[8] then again = 3 end
return say('granted', ARGV[1], again)
