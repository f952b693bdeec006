-- go_ahead(KEYS = [place..., budget...], ARGV = [request id, lasts ms, (limit, interval)...]) -> 1 | 0
-- {place}  zset: requests whose token is to be spent and is not settled -> when they count no more (server ms).
-- Takes a seat at every place, or none. Who has one keeps it; what nobody ends passes away by itself.
-- *limit* is right at the configured *interval* (microseconds): a budget that 429s or an operator have changed has as
-- many seats as its rate of now allows, and none while it is paused.
local places, ms = #KEYS / 2, math.floor(now / 1000)
for i = 1, places do
  local place, configured = KEYS[i], ARGV[2 + 2 * i]
  local budget = read(KEYS[places + i], configured, 0)
  local limit = budget.paused and 0 or math.max(1, math.floor(ARGV[1 + 2 * i] * configured / budget.interval))
  redis.call('ZREMRANGEBYSCORE', place, '-inf', ms)
  if redis.call('ZCARD', place) >= limit and not redis.call('ZSCORE', place, ARGV[1]) then return 0 end
end
for i = 1, places do
  local place = KEYS[i]
  redis.call('ZADD', place, string.format('%.0f', ms + ARGV[2]), ARGV[1])
  redis.call('PEXPIREAT', place, redis.call('ZRANGE', place, -1, -1, 'WITHSCORES')[2])
end
return 1
