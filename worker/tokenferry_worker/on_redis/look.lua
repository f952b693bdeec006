-- look(KEYS = [budget], ARGV = [interval, calls ahead]) -> 
--   {calls per second now, seconds until a call fits, factor, paused or '', calls per second an operator has set or '',
--    when both end (Unix ms) or '', who has set them or ''}
-- Returns the state of a budget, and takes no call from it.
local budget = read(KEYS[1], ARGV[1], ARGV[2])
local wait = math.max(0, budget.at - budget.ahead - now)
local ordered = budget.paused or budget.rate
if budget.paused then wait = math.max(wait, 1000000) end
return {string.format('%.3f', 1000000 / budget.interval), string.format('%.6f', wait / 1000000),
  string.format('%.4f', budget.factor), budget.paused or '', budget.rate and string.format('%.17g', budget.rate) or '',
  ordered and string.format('%.0f', budget['until'] / 1000) or '', ordered and redis.call('HGET', KEYS[1], 'by') or ''}
