-- lookup(KEYS = [key...], ARGV = []) -> [the value of a string, or the fields and values of a hash...]
-- Reads what is there, for a person. An absent key gives an empty list.
local found = {}
for i, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  found[i] = kind == 'hash' and redis.call('HGETALL', key) or kind == 'string' and {redis.call('GET', key)} or {}
end
return found
