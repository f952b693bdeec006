-- push_back(KEYS = [budget, changes], ARGV = [pause, interval, calls ahead, name, who]) -> {factor, cut 1 | 0}
-- {changes}  list: what was changed, by whom and why, newest first, 1000 of them.
-- Stripe has refused a call for its rate: no call starts for that long, and then the whole fleet calls more slowly.
-- There is at most one cut a second, because a hundred refusals at once have one cause. The first cuts a little, each
-- further one within 10 s cuts deeper (`pacing.cut`).
local AGAIN, STEPS, LEAST = 10, {0.93, 0.85, 0.7}, 0.02
local budget = read(KEYS[1], ARGV[2], ARGV[3])
budget.at = math.max(budget.at, now + math.min(SANE, ARGV[1]) + budget.ahead)
local seconds = (now - budget.since) / 1000000
local cut = seconds >= 1
if cut then
  local row = seconds < AGAIN and number(redis.call('HGET', KEYS[1], 'cuts'), 0) + 1 or 1
  budget.factor = math.max(LEAST, budget.factor * STEPS[math.max(1, math.min(math.floor(row), #STEPS))])
  redis.call('HSET', KEYS[1], 'factor', string.format('%.4f', budget.factor), 'since', string.format('%.0f', now), 'cuts', row)
  heal(KEYS[2], 'list')
  redis.call('LPUSH', KEYS[2], cjson.encode({at = string.format('%.0f', now / 1000), who = ARGV[5], budget = ARGV[4],
    what = string.format('slowed to %.0f %% of its rate', 100 * budget.factor), why = 'Stripe answered 429'}))
  redis.call('LTRIM', KEYS[2], 0, 999)
  redis.call('PEXPIRE', KEYS[2], 2592000000)
end
keep(budget)
return {string.format('%.4f', budget.factor), cut and 1 or 0}
