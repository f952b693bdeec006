-- push_back(KEYS = [budget], ARGV = [microseconds, tolerance]) -> 1
-- Nobody starts a call on this budget for that long: the endpoint has just refused one.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local arrival = tonumber(redis.call('GET', KEYS[1]) or 0)
-- Never further than that: a hundred refusals at once are one piece of news, not a hundred.
local pushed = math.max(arrival, now + ARGV[1] + ARGV[2])
redis.call('SET', KEYS[1], string.format('%.0f', pushed), 'PX', string.format('%.0f', (pushed - now) / 1000 + 60000))
return 1
