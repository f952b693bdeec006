-- let_go(KEYS = [lock], ARGV = [by]) -> 1 | 0
-- Frees the lock, if it is still the caller's own.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
