-- distrust(KEYS = [journal], ARGV = [outcome, tag, ttl ms]) -> 1 | 0
-- Deletes an outcome that no worker wrote. doubted = 1: an earlier delivery may have had another one. 0: the entry is not
-- as the caller saw it.
local known = redis.call('HMGET', KEYS[1], 'outcome', 'tag')
if known[1] ~= ARGV[1] or (known[2] or '') ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], 'outcome', 'content', 'tag')
redis.call('HSET', KEYS[1], 'doubted', '1')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
