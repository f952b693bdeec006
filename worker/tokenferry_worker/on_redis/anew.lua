-- anew(KEYS = [journal of the request, journal of the order, token, slot...], ARGV = [token id, request id, ttl ms])
--   -> 1 | 0
-- The token became too old before any call. Its request begins once more, with the next generation of its key. The
-- outcome with the old token is deleted: it was never published. 0: the token is not expired, so somebody may spend it.
-- Run twice, or after the request has moved on, it changes nothing more. If the store has lost the request, the first
-- generation is skipped, because Stripe would repeat the old token under its key.
local state = redis.call('HGET', KEYS[3], 'state')
if state and state ~= 'expired' then return 0 end
local known = redis.call('HMGET', KEYS[1], 'outcome', 'epoch')
if known[1] and cjson.decode(known[1]).token == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'outcome', 'tag', 'deliveries')
  redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  redis.call('HDEL', KEYS[2], 'deliveries')
elseif not known[1] and tonumber(known[2] or 0) == 0 then
  redis.call('HSET', KEYS[1], 'epoch', 1)
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if not state then redis.call('HSET', KEYS[3], 'state', 'expired', 'by', ARGV[2]) end
redis.call('PEXPIRE', KEYS[3], ARGV[3])
for i = 4, #KEYS do redis.call('ZREM', KEYS[i], ARGV[2]) end
return 1
