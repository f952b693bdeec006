-- anew(KEYS = [journal of the request, journal of the order, token, place ahead...], ARGV = [token id, request id, ttl ms])
--   -> 1 | 0
-- The token got too old before any call: its request begins once more, with the next generation of its key, and forgets
-- the outcome nobody was told of. 0: the token is not expired, so somebody may be spending it. Run twice, or after the
-- request has moved on, it changes nothing more; a store that has forgotten the request leaves the first generation behind,
-- because the endpoint would repeat the old token under its key.
local state = redis.call('HGET', KEYS[3], 'state')
if state and state ~= 'expired' then return 0 end
local known = redis.call('HMGET', KEYS[1], 'outcome', 'epoch')
if known[1] and cjson.decode(known[1]).token == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'outcome', 'deliveries')
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
