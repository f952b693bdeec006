-- close(KEYS = [token, journal of the order?],
--       ARGV = [by, fence, state, ttl ms, by afterwards, object, type, stored, outcome, 1 if it is a failure of ours,
--               tag of the spending, the same where the record of the making is gone,
--               tag of the outcome, expected facts, doubted outcome])
--   -> {1 | 0} | facts (see entry.lua)
-- Ends a lease. An older lease changes nothing, except that its order has spent the token: Stripe said so, whichever
-- delivery got the answer. A token that is spent, burnt or expired stays so.
-- *outcome*, if there is one, is recorded in the same moment, as in record: before anybody else can have the token.
local held = redis.call('HMGET', KEYS[1], 'by', 'fence', 'state')
local open = held[3] == 'leased' or held[3] == 'unknown'
-- A store that was wiped meanwhile records what is certain: that the token is used up.
local wiped = not held[3] and (ARGV[3] == 'spent' or ARGV[3] == 'burnt')
local mine = held[1] == ARGV[1] and (held[2] == ARGV[2] or ARGV[3] == 'spent')
if not wiped and not (mine and open) then
  -- A repeated call, because the answer to the first one was lost.
  return {held[1] == ARGV[5] and held[2] == ARGV[2] and held[3] == ARGV[3] and 1 or 0}
end
-- First, because it may say that the tag covers other facts.
if KEYS[2] and (ARGV[10] == '0' or redis.call('HEXISTS', KEYS[2], 'deliveries') == 1) then
  local others = write_outcome(KEYS[2], ARGV[9], '', '1', ARGV[13], ARGV[14], ARGV[15])
  if others then return others end
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'by', ARGV[5], 'fence', held[2] or ARGV[2])
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[1], 'object', ARGV[6], 'type', ARGV[7], 'stored', ARGV[8])
  redis.call('HDEL', KEYS[1], 'doubted', 'spent_tag')
  local tag = redis.call('HEXISTS', KEYS[1], 'made') == 1 and ARGV[11] or ARGV[12]
  if tag ~= '' then redis.call('HSET', KEYS[1], 'spent_tag', tag) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {1}
