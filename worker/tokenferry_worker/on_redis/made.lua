-- made(KEYS = [journal, token],
--      ARGV = [outcome, ttl ms, platform, mode, account, kind, made, content or '', generation,
--              tag of the making, tag, expected facts, doubted outcome])
--   -> told | facts | {} (see entry.lua)
-- Records an outcome with a token. In the same moment the token becomes available in the ledger, with its owner.
-- {}: a later generation has begun, and nothing is written.
if tonumber(redis.call('HGET', KEYS[1], 'generation') or 1) > tonumber(ARGV[9]) then return {} end
local known = redis.call('HGET', KEYS[1], 'outcome')
if not known or known == ARGV[13] then
  local others = write_outcome(KEYS[1], ARGV[1], ARGV[8], ARGV[9], ARGV[11], ARGV[12], ARGV[13])
  if others then return others end
  if redis.call('EXISTS', KEYS[2]) == 0 then
    redis.call('HSET', KEYS[2], 'state', 'available', 'platform', ARGV[3], 'mode', ARGV[4], 'account', ARGV[5],
      'kind', ARGV[6], 'made', ARGV[7], 'request', string.match(KEYS[1], ':request:(.*)$') or '')
    if ARGV[10] ~= '' then redis.call('HSET', KEYS[2], 'made_tag', ARGV[10]) end
    redis.call('PEXPIRE', KEYS[2], ARGV[2])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return told(KEYS[1])
