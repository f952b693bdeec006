-- doubt(KEYS = [token], ARGV = [tag of the making, tag of the spending, ttl ms]) -> 1 | 0
-- The record that a worker has read does not verify (docs/formats.md, "Authentic state"). What it says is deleted, and
-- the token is unknown: doubted = 1 until it is spent. 0: the record has changed since it was read.
local held = redis.call('HMGET', KEYS[1], 'made_tag', 'spent_tag', 'state')
if (held[1] or '') ~= ARGV[1] or (held[2] or '') ~= ARGV[2] or redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HDEL', KEYS[1], 'platform', 'mode', 'account', 'kind', 'made', 'made_tag', 'object', 'type', 'stored',
  'spent_tag')
local is_new = redis.call('HSETNX', KEYS[1], 'doubted', '1') == 1
if is_new or (held[3] ~= 'leased' and held[3] ~= 'unknown') then
  redis.call('HSET', KEYS[1], 'state', 'unknown', 'by', '')
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
