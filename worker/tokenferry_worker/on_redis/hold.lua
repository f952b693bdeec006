-- hold(KEYS = [lock], ARGV = [by, lease ms]) -> 1 | 0
-- {lock}  string: who writes to this object now.
-- Takes a lock that is free, and renews the caller's own.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  return 1
end
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
return 0
