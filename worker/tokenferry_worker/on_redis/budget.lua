-- What every script on budgets shares. A budget is a hash:
--   at      theoretical arrival time of the next call, on the server's clock (GCRA, ITU-T I.371)
--   factor  share of the rate that Stripe last tolerated (absent: all of it)
--   since   when the factor was last cut
--   cuts    how many times in a row it was cut
--   rate    calls per second that an operator has set: the configured rate is the most that counts
--   paused  an operator's reason for no calls at all
--   until   when rate and paused end
--   by      who has set them last
-- All times in microseconds.
local HOLD, SLOW, PROBING = 8, 0.01, 6

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

-- Returns the share of the rate to use now (`pacing.recovered`). After a cut it stays for a while. Then it rises by 1 %
-- of the rate per second near the last refusal, and by 2 % beyond.
local function recovered(factor, since)
  local seconds = (now - since) / 1000000 - HOLD
  if seconds <= 0 then return factor end
  local risen = SLOW * math.min(seconds, PROBING) + 2 * SLOW * math.max(0, seconds - PROBING)
  return math.min(1, factor + risen)
end

-- An arrival time further in the future than any call could make it was written before the clock was set back. It would
-- stop everything for as long, so it counts as now. SANE is the margin.
local SANE = 10000000
-- Returns *otherwise* for what is no finite number: NaN would pass every comparison below, and stop everything.
local function number(text, otherwise)
  local read = tonumber(text or nil)
  if not read or read ~= read or math.abs(read) == math.huge then return otherwise end
  return read
end
-- *ahead*: intervals that a call may come early.
local function read(key, interval, ahead)
  local held = redis.pcall('HMGET', key, 'at', 'factor', 'since', 'rate', 'paused', 'until')
  if held.err then -- no hash: nobody of us wrote it, and left there it would stop every call of the budget
    redis.call('DEL', key)
    held = {}
  end
  local budget = {key = key, at = number(held[1], 0), factor = 1, since = math.min(now, number(held[3], 0))}
  local factor, rate = number(held[2], 0), number(held[4], 0)
  if factor > 0 then budget.factor = recovered(factor, budget.since) end
  budget['until'] = number(held[6], 0)
  local ordered = budget['until'] > now
  budget.paused = ordered and held[5] or false
  -- The configuration caps what the store says: whoever writes to the store can only slow the fleet down.
  if ordered and rate > 0 then
    budget.rate = rate
    interval = math.max(interval, 1000000 / rate)
  end
  budget.interval = math.ceil(interval / budget.factor - 1e-6)
  budget.ahead = ahead * budget.interval
  if budget.at - now > budget.ahead + 3 * budget.interval + SANE then budget.at = now end
  return budget
end

-- Past its arrival time a budget is as good as new. Three minutes more outlast every recovery, and a clock that is set
-- back a little. What an operator has set lives until its end.
local function keep(budget)
  redis.call('HSET', budget.key, 'at', string.format('%.0f', budget.at))
  local ends = math.max(budget.at + 180000000, budget['until'])
  redis.call('PEXPIRE', budget.key, string.format('%.0f', (ends - now) / 1000 + 1))
end
