-- permit(KEYS = [budget...], ARGV = [interval, tolerance, ...]) -> microseconds to wait
-- {budget}  string: theoretical arrival time of the next call, microseconds of the server's clock (GCRA, ITU-T I.371).
-- All times in microseconds. Takes one call out of every budget: the start is the earliest moment that suits all.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local start = now
local arrivals = {}
for i, key in ipairs(KEYS) do
  local arrival = tonumber(redis.call('GET', key) or 0)
  arrivals[i] = arrival
  start = math.max(start, arrival - ARGV[2 * i])
end
for i, key in ipairs(KEYS) do
  local arrival = math.max(arrivals[i], start) + ARGV[2 * i - 1]
  -- Past its arrival time a budget is as good as new; a minute more forgives a clock that is set back a little.
  redis.call('SET', key, string.format('%.0f', arrival), 'PX', string.format('%.0f', (arrival - now) / 1000 + 60000))
end
return string.format('%.0f', start - now)
