-- permit(KEYS = [line, budget...], ARGV = [more, lane, (interval, tolerance)...]) -> {granted 1 | 0, ask again in}
-- {budget}  string: theoretical arrival time of the next call, microseconds of the server's clock (GCRA, ITU-T I.371).
-- {line}    string: when the next turn to ask is free, for everybody who waits for this set of budgets.
-- All times in microseconds. Takes one call out of every budget, or none; nothing is booked ahead.
-- Who was not served, or has more to serve (more = 1), is told a turn of its own in the line, spaced as the slowest budget
-- allows: so everybody is served in turn, and nearly every question is granted. Realtime does not stand in line.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local line, more, lane = KEYS[1], ARGV[1], ARGV[2]
local arrivals, earliest, slowest = {}, now, 0
for i = 2, #KEYS do
  arrivals[i] = tonumber(redis.call('GET', KEYS[i]) or 0)
  earliest = math.max(earliest, arrivals[i] - ARGV[2 * i])
  slowest = math.max(slowest, tonumber(ARGV[2 * i - 1]))
end
local granted = earliest <= now
if granted then
  for i = 2, #KEYS do
    local arrival = math.max(arrivals[i], now) + ARGV[2 * i - 1]
    -- Past its arrival time a budget is as good as new; a minute more forgives a clock that is set back a little.
    redis.call('SET', KEYS[i], string.format('%.0f', arrival), 'PX', string.format('%.0f', (arrival - now) / 1000 + 60000))
    earliest = math.max(earliest, arrival - ARGV[2 * i])
  end
  if more == '0' then return {1, '0'} end
end
-- Realtime, and who came a moment too early, come back when there is a place; so does everybody while there still is one.
if lane == 'realtime' or earliest <= now or (not granted and earliest - now < slowest / 2) then
  return {granted and 1 or 0, string.format('%.0f', earliest - now)}
end
local turn = math.max(tonumber(redis.call('GET', line) or 0), earliest)
redis.call('SET', line, string.format('%.0f', turn + slowest), 'PX', string.format('%.0f', (turn + slowest - now) / 1000 + 1000))
return {granted and 1 or 0, string.format('%.0f', turn - now)}
