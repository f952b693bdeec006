-- renew(KEYS = [unacked, unacked_index], ARGV = [tag...]) -> [tag that is gone...]
--
-- Renews only what is still registered: a message that was given back meanwhile belongs to another consumer.
-- A server without memory refuses a script whose first write may need some. ZADD may (here it never does), so it comes
-- second. The microseconds between the tags keep their order, in case all are given back together.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local gone = {}
for i, tag in ipairs(ARGV) do
  if redis.call('HEXISTS', KEYS[1], tag) == 1 then
    redis.call('ZREM', KEYS[2], tag)
    redis.call('ZADD', KEYS[2], now + i / 1000000, tag)
  else
    gone[#gone + 1] = tag
  end
end
return gone
