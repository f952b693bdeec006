-- birth(KEYS = [born, accepted, alive], ARGV = [how, seen, margin, ttl]) -> {began, now}
-- {alive}  string: when this process last asked. It shows that a backup was restored while the process ran.
-- *how*: what an empty {born} means. '': nothing is written, and *began* is -1. 'old': the version before wrote here.
-- 'new': the store begins now. *seen*: the {alive} that this process wrote last, or 0. Where {alive} is older than that
-- by more than *margin*, the store has lost what happened since: it begins now. All times in Unix milliseconds.
local how, seen = ARGV[1], tonumber(ARGV[2])
local at = birth(KEYS[1])
if not at then
  if how == '' then return {-1, now} end
  at = bear(KEYS[1], how == 'old' and 0 or now)
elseif seen > 0 and at <= seen and now - seen < tonumber(ARGV[4]) then
  if tonumber(redis.call('GET', KEYS[3]) or 0) < seen - tonumber(ARGV[3]) then at = bear(KEYS[1], now) end
end
if how ~= '' then redis.call('SET', KEYS[3], string.format('%.0f', now), 'PX', ARGV[4]) end
return {unless_accepted(at, KEYS[2]), now}
