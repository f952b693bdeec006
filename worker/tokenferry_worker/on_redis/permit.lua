-- permit(KEYS = [line, budget...],
--        ARGV = [more 1 | 0, lane, permit id, longest call, (interval, calls ahead, in flight) per budget])
--   -> {granted 1 | 0, ask again in}, or {0, ask again in, number of the paused budget in KEYS, lasts}
-- {line}          string: when the next turn to ask is free, for all who wait for this set of budgets.
-- {budget}:calls  zset: permit id -> when its call is over at the latest, for a budget that limits the calls in flight.
-- Takes one call out of every budget, or none. Nothing is booked ahead. A call may come `calls ahead` intervals early.
-- A bulk caller that was not served, or has more to serve (more = 1), gets a turn in the line. The turns are spaced as
-- the slowest budget allows: all are served in order, and nearly every question is granted. Realtime does not queue.
-- All times in microseconds.
local FULL = 50000 -- until it is worth asking again for a budget with too many calls in flight
local line, more, lane, permit_id = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local budgets, earliest, slowest, full = {}, now, 0, false
for i = 2, #KEYS do
  local budget = read(KEYS[i], ARGV[3 * i - 1], ARGV[3 * i])
  if budget.paused then return {0, '1000000', i, string.format('%.0f', budget['until'] - now)} end
  budget.in_flight = tonumber(ARGV[3 * i + 1])
  if budget.in_flight > 0 then
    heal(KEYS[i] .. ':calls', 'zset')
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
      redis.call('ZADD', KEYS[i] .. ':calls', now + ARGV[4], permit_id)
      redis.call('PEXPIRE', KEYS[i] .. ':calls', string.format('%.0f', ARGV[4] / 1000 + 1))
    end
    earliest = math.max(earliest, budget.at - budget.ahead)
  end
  if more == '0' then return {1, '0'} end
end
-- Realtime asks again when a call fits, without a turn in the line. So does a caller that came a moment too early, and
-- everybody as long as another call fits now.
if lane == 'realtime' or earliest <= now or (not granted and earliest - now < slowest / 2) then
  return {granted and 1 or 0, string.format('%.0f', earliest - now)}
end
heal(line, 'string')
local turn = number(redis.call('GET', line), 0)
if turn - now > 1000 * slowest + SANE then turn = 0 end -- more than a thousand in line: the clock was set back
turn = math.max(turn, earliest)
redis.call('SET', line, string.format('%.0f', turn + slowest), 'PX', string.format('%.0f', (turn + slowest - now) / 1000 + 1000))
return {granted and 1 or 0, string.format('%.0f', turn - now)}
