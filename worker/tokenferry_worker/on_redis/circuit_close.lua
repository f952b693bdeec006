-- circuit_close(KEYS = [circuit, open circuits], ARGV = [scope]) -> milliseconds that it was open, or -1
-- Closes the circuit. -1: it was not open.
local known = circuit(KEYS[1])
redis.call('DEL', KEYS[1])
heal(KEYS[2], 'set')
redis.call('SREM', KEYS[2], ARGV[1])
if not known then return -1 end
local clock = redis.call('TIME')
return math.max(0, clock[1] * 1000 + math.floor(clock[2] / 1000) - known.opened)
