-- made(KEYS = [journal, token], ARGV = [outcome, ttl ms, platform, mode, account, kind, made])
--   -> {the outcome that counts, round}
-- Records an outcome with a token. In the same moment the token becomes available in the ledger, with its owner.
if redis.call('HSETNX', KEYS[1], 'outcome', ARGV[1]) == 1 and redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('HSET', KEYS[2], 'state', 'available', 'platform', ARGV[3], 'mode', ARGV[4], 'account', ARGV[5], 'kind', ARGV[6],
    'made', ARGV[7], 'request', string.match(KEYS[1], '[^:]*$'))
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local known = redis.call('HMGET', KEYS[1], 'outcome', 'round')
return {known[1], tonumber(known[2] or 1)}
