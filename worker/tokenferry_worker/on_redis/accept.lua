-- accept(KEYS = [born, accepted], ARGV = [restored 1 | 0, who, why]) -> when the store began
-- An operator says that this store is new on purpose: nothing is refused because it is younger. Or (restored = 1) that
-- it came from a backup: it begins now, and what moves money and is older is refused. Times in Unix milliseconds.
local at = birth(KEYS[1])
if ARGV[1] == '1' then
  redis.call('DEL', KEYS[2])
  return bear(KEYS[1], now)
end
at = at or bear(KEYS[1], now)
redis.call('HSET', KEYS[2], 'born', string.format('%.0f', at), 'at', string.format('%.0f', now), 'by', ARGV[2],
  'why', ARGV[3])
return at
