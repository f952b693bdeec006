-- circuit_force(KEYS = [circuit, parked], ARGV = [scope, ttl ms]) -> 1 | 0
-- Lets the next call probe at once. Where the circuit is not open, counts one parked message, so that a worker empties the
-- queue of the scope.
if circuit(KEYS[1]) then
  redis.call('HSET', KEYS[1], 'next', '0', 'probing', '0')
  return 1
end
count_parked(KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 0
