-- go_ahead(KEYS = [slot..., budget...], ARGV = [request id, lasts ms, (limit, interval)...]) -> 1 | 0
-- {slot}  zset: requests whose token is to be spent and is not settled -> when they stop counting (server ms).
-- Counts the request in every slot, or in none (0). A request that is counted stays counted. A count that nobody ends
-- expires by itself.
-- *limit* is right at the configured *interval* (microseconds). Where 429s or an operator have changed the budget, the limit
-- follows its rate of now; it is 0 while the budget is paused.
local slots, ms = #KEYS / 2, math.floor(now / 1000)
for i = 1, slots do
  local slot, configured = KEYS[i], ARGV[2 + 2 * i]
  local budget = read(KEYS[slots + i], configured, 0)
  local limit = budget.paused and 0 or math.max(1, math.floor(ARGV[1 + 2 * i] * configured / budget.interval))
  heal(slot, 'zset')
  redis.call('ZREMRANGEBYSCORE', slot, '-inf', ms)
  if redis.call('ZCARD', slot) >= limit and not redis.call('ZSCORE', slot, ARGV[1]) then return 0 end
end
for i = 1, slots do
  local slot = KEYS[i]
  redis.call('ZADD', slot, string.format('%.0f', ms + ARGV[2]), ARGV[1])
  redis.call('PEXPIREAT', slot, redis.call('ZRANGE', slot, -1, -1, 'WITHSCORES')[2])
end
return 1
