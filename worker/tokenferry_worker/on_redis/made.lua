-- made(KEYS = [journal, token],
--      ARGV = [outcome, ttl ms, platform, mode, account, kind, made, content or '', generation,
--              tag of the making])
--   -> {the outcome that counts, round, content or ''} | {}
-- Records an outcome with a token. In the same moment the token becomes available in the ledger, with its owner.
-- {}: a later generation has begun, and nothing is written.
if tonumber(redis.call('HGET', KEYS[1], 'generation') or 1) > tonumber(ARGV[9]) then return {} end
if redis.call('HSETNX', KEYS[1], 'outcome', ARGV[1]) == 1 then
  if ARGV[8] ~= '' then redis.call('HSET', KEYS[1], 'content', ARGV[8]) end
  if ARGV[9] ~= '1' then redis.call('HSET', KEYS[1], 'generation', ARGV[9]) end
  if redis.call('EXISTS', KEYS[2]) == 0 then
    redis.call('HSET', KEYS[2], 'state', 'available', 'platform', ARGV[3], 'mode', ARGV[4], 'account', ARGV[5],
      'kind', ARGV[6], 'made', ARGV[7])
    if ARGV[10] ~= '' then redis.call('HSET', KEYS[2], 'made_tag', ARGV[10]) end
    redis.call('PEXPIRE', KEYS[2], ARGV[2])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local known = redis.call('HMGET', KEYS[1], 'outcome', 'round', 'content')
return {known[1], tonumber(known[2] or 1), known[3] or ''}
