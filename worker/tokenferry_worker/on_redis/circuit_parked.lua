-- circuit_parked(KEYS = [parked], ARGV = [scope, emptied after, ttl ms]) -> 1
-- {parked}  hash: by scope, how many messages were parked since its queue was last found empty.
-- With an empty second argument: counts one more message. Else: the queue was found empty after that many messages, so the
-- scope is forgotten, unless more came since.
heal(KEYS[1], 'hash')
if ARGV[2] == '' then
  count_parked(KEYS[1], ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
elseif redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return 1
