-- doubt(KEYS = [token], ARGV = [fence, tag of the making, tag of the spending, ttl ms]) -> 1 | 0
-- The record that a worker has read does not verify (docs/formats.md, "Authentic state"). What it says is deleted, and
-- the token is unknown: doubted = 1 until it is spent. 0: the record has changed since it was read.
local held = redis.call('HMGET', KEYS[1], 'fence', 'made_tag', 'spent_tag', 'state')
if not held[4] or string.format('%.0f', tonumber(held[1] or 0) or 0) ~= ARGV[1] then return 0 end
if (held[2] or '') ~= ARGV[2] or (held[3] or '') ~= ARGV[3] then return 0 end
redis.call('HDEL', KEYS[1], 'platform', 'mode', 'account', 'kind', 'made', 'made_tag', 'object', 'type', 'stored',
  'spent_tag')
redis.call('HSET', KEYS[1], 'state', 'unknown', 'by', '', 'doubted', '1')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
