-- give_back(KEYS = [unacked, unacked_index, list...], ARGV = [(tag, lease as seen or '', payload)...]) -> [tag moved...]
--
-- Moves each registered message to the tail of its list, the end that is consumed first. With a lease, only if it was
-- not renewed since it was seen. The push comes first: if a full server refuses it, nothing has changed.
local moved = {}
for i = 1, #ARGV / 3 do
  local tag, seen, payload = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
  if redis.call('HEXISTS', KEYS[1], tag) == 1 and (seen == '' or redis.call('ZSCORE', KEYS[2], tag) == seen) then
    redis.call('RPUSH', KEYS[2 + i], payload)
    redis.call('ZREM', KEYS[2], tag)
    redis.call('HDEL', KEYS[1], tag)
    moved[#moved + 1] = tag
  end
end
return moved
