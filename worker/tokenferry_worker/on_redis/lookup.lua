-- lookup(KEYS = [key...], ARGV = [hash | string for each]) -> [fields and values of a hash, or the value of a string...]
-- Reads what is there, for a person. An absent key gives an empty list.
local found = {}
for i, key in ipairs(KEYS) do
  found[i] = ARGV[i] == 'hash' and redis.call('HGETALL', key) or {redis.call('GET', key) or nil}
end
return found
