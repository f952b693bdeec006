-- circuit_open(KEYS = [circuit, open circuits], ARGV = [scope, status, code, request, by, first pause ms, ttl ms]) -> 1 | 0
-- {circuit}  hash: status, code, request, opened, by, probes, next (no probe before), probing (until); server milliseconds.
-- Opens the circuit. 1: this caller opened it; the answer stays the same, however often it asks.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if circuit(KEYS[1]) == nil then redis.call('DEL', KEYS[1]) end
heal(KEYS[2], 'set')
if redis.call('HSETNX', KEYS[1], 'by', ARGV[5]) == 1 then
  local at, next_probe = string.format('%.0f', now), string.format('%.0f', now + ARGV[6])
  redis.call('HSET', KEYS[1], 'status', ARGV[2], 'code', ARGV[3], 'request', ARGV[4], 'opened', at, 'probes', '0',
    'next', next_probe, 'probing', '0')
end
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[7])
return redis.call('HGET', KEYS[1], 'by') == ARGV[5] and 1 or 0
