-- circuit_again(KEYS = [circuit, open circuits], ARGV = [probes more, first pause ms, longest pause ms, ttl ms, by]) -> 1 | 0
-- Ends a probe that did not close the circuit. The pause before the next one doubles with each failed probe.
-- by: the request that probed, where another request should make the next probe.
local known = circuit(KEYS[1])
if not known then return 0 end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local probes = known.probes + ARGV[1]
local pause = math.min(ARGV[3], ARGV[2] * 2 ^ math.min(probes, 20))
redis.call('HSET', KEYS[1], 'probes', whole(probes), 'probing', '0', 'next', string.format('%.0f', now + pause), 'last', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
