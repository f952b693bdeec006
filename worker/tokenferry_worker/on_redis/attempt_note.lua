-- attempt_note(KEYS = [attempts], ARGV = [attempt as JSON, most, ttl ms]) -> 1
-- {attempts}  list: the latest attempts of a request or order, oldest first. For `tokenferry show` alone.
-- The same attempt again, because the answer was lost, is not added twice.
if redis.call('LINDEX', KEYS[1], -1) ~= ARGV[1] then
  redis.call('RPUSH', KEYS[1], ARGV[1])
  redis.call('LTRIM', KEYS[1], -ARGV[2], -1)
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
