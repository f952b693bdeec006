-- give_back(KEYS = [unacked, unacked_index], ARGV = [(tag, lease as seen or '', list, payload)...]) -> [tag moved...]
--
-- The lists are no keys of this script, because a user needs no right to read them.
--
-- Moves each registered message to the tail of its list, the end that is consumed first. With a lease, only if it was
-- not renewed since it was seen. The push comes first: if a full server refuses it, nothing has changed.
local moved = {}
for i = 1, #ARGV, 4 do
  local tag, seen, list, payload = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if redis.call('HEXISTS', KEYS[1], tag) == 1 and (seen == '' or redis.call('ZSCORE', KEYS[2], tag) == seen) then
    redis.call('RPUSH', list, payload)
    redis.call('ZREM', KEYS[2], tag)
    redis.call('HDEL', KEYS[1], tag)
    moved[#moved + 1] = tag
  end
end
return moved
