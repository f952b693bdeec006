-- command(KEYS = [budget, changes], ARGV = [verb, value, lasts, name, who, why, interval, calls ahead]) -> 1
-- Changes a budget for an operator: set (value: calls per second), pause, resume, or reset (back to the full configured
-- rate). set and pause end after *lasts* microseconds. Every change is recorded in {changes}.
local verb, value = ARGV[1], ARGV[2]
local budget = read(KEYS[1], ARGV[7], ARGV[8])
local what
if verb == 'set' then
  redis.call('HSET', KEYS[1], 'rate', value)
  what = 'set to ' .. value .. ' calls per second'
elseif verb == 'pause' then
  redis.call('HSET', KEYS[1], 'paused', ARGV[6])
  what = 'paused'
elseif verb == 'resume' then
  redis.call('HDEL', KEYS[1], 'paused')
  what = 'resumed'
else
  redis.call('DEL', KEYS[1]) -- keep, below, writes the time of the next call again
  budget['until'] = 0
  what = 'reset to the configured rate'
end
if verb == 'set' or verb == 'pause' then
  budget['until'] = math.max(budget['until'], now + ARGV[3])
  redis.call('HSET', KEYS[1], 'until', string.format('%.0f', budget['until']), 'by', ARGV[5])
end
keep(budget)
heal(KEYS[2], 'list')
redis.call('LPUSH', KEYS[2], cjson.encode({at = string.format('%.0f', now / 1000), who = ARGV[5], budget = ARGV[4],
  what = what, why = ARGV[6], lasts = (verb == 'set' or verb == 'pause') and tonumber(ARGV[3]) / 1000000 or nil}))
redis.call('LTRIM', KEYS[2], 0, 999)
redis.call('PEXPIRE', KEYS[2], 2592000000)
return 1
