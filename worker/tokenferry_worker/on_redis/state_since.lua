-- state_since(KEYS = [since], ARGV = [seen, value]) -> the value that is there now
-- {since}  string: "<Unix ms> <tag>": when the first worker with a state key started.
-- Writes *value* where the key still holds *seen* ('': nothing).
local held = redis.call('GET', KEYS[1]) or ''
if held ~= ARGV[1] then return held end
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]
