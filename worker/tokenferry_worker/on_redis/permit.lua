-- permit(KEYS = [line, budget...], ARGV = [more, lane, call, at most, (interval, calls ahead, in flight)...])
--   -> {granted 1 | 0, ask again in} or, where a budget is paused, {0, ask again in, its place in KEYS, lasts}
-- {line}          string: when the next turn to ask is free, for everybody who waits for this set of budgets.
-- {budget}:calls  zset: calls under way -> when they are over at the latest (now + at most), for a budget with an
--                 in flight above 0.
-- Takes one call out of every budget, or none; nothing is booked ahead. A call may come so many intervals early.
-- Who was not served, or has more to serve (more = 1), is told a turn of its own in the line, spaced as the slowest budget
-- allows: so everybody is served in turn, and nearly every question is granted. Realtime does not stand in line.
local FULL = 50000 -- microseconds until it is worth asking again for a budget with too many calls under way
local line, more, lane, call = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local budgets, earliest, slowest, full = {}, now, 0, false
for i = 2, #KEYS do
  local budget = read(KEYS[i], ARGV[3 * i - 1], ARGV[3 * i])
  if budget.paused then return {0, '1000000', i, string.format('%.0f', budget['until'] - now)} end
  budget.in_flight = tonumber(ARGV[3 * i + 1])
  if budget.in_flight > 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[i] .. ':calls', '-inf', now)
    full = full or redis.call('ZCARD', KEYS[i] .. ':calls') >= budget.in_flight
  end
  budgets[i] = budget
  earliest = math.max(earliest, budget.at - budget.ahead)
  slowest = math.max(slowest, budget.interval)
end
if full then return {0, string.format('%.0f', math.max(FULL, slowest))} end
local granted = earliest <= now
if granted then
  for i = 2, #KEYS do
    local budget = budgets[i]
    budget.at = math.max(budget.at, now) + budget.interval
    keep(budget)
    if budget.in_flight > 0 then
      redis.call('ZADD', KEYS[i] .. ':calls', now + ARGV[4], call)
      redis.call('PEXPIRE', KEYS[i] .. ':calls', string.format('%.0f', ARGV[4] / 1000 + 1))
    end
    earliest = math.max(earliest, budget.at - budget.ahead)
  end
  if more == '0' then return {1, '0'} end
end
-- Realtime, and who came a moment too early, come back when there is a place; so does everybody while there still is one.
if lane == 'realtime' or earliest <= now or (not granted and earliest - now < slowest / 2) then
  return {granted and 1 or 0, string.format('%.0f', earliest - now)}
end
local turn = tonumber(redis.call('GET', line) or 0)
if turn - now > 1000 * slowest + SANE then turn = 0 end -- more than a thousand in line: the clock was set back
turn = math.max(turn, earliest)
redis.call('SET', line, string.format('%.0f', turn + slowest), 'PX', string.format('%.0f', (turn + slowest - now) / 1000 + 1000))
return {granted and 1 or 0, string.format('%.0f', turn - now)}
