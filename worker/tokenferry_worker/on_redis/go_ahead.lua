-- go_ahead(KEYS = [place...], ARGV = [request id, lasts ms, limit...]) -> 1 | 0
-- {place}  zset: requests whose token is to be spent and is not settled -> when they count no more (server ms).
-- Takes a seat at every place, or none. Who has one keeps it; what nobody ends passes away by itself.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
for i, place in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', place, '-inf', now)
  if redis.call('ZCARD', place) >= tonumber(ARGV[2 + i]) and not redis.call('ZSCORE', place, ARGV[1]) then return 0 end
end
for _, place in ipairs(KEYS) do
  redis.call('ZADD', place, string.format('%.0f', now + ARGV[2]), ARGV[1])
  redis.call('PEXPIREAT', place, redis.call('ZRANGE', place, -1, -1, 'WITHSCORES')[2])
end
return 1
