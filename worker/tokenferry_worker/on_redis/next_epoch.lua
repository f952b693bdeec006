-- next_epoch(KEYS = [journal], ARGV = [after, ttl ms]) -> current epoch
-- Raises the epoch only from the one that the caller saw. So two callers begin one new generation, not two.
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0)
if epoch == tonumber(ARGV[1]) then
  epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return epoch
