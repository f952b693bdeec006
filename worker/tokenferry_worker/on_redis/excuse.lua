-- excuse(KEYS = [journal], ARGV = [ttl ms]) -> deliveries that count
-- Uncounts a delivery that a stopping worker gives back: that is no sign of poison. Never below 0.
local deliveries = tonumber(redis.call('HGET', KEYS[1], 'deliveries') or 0)
if deliveries > 0 then
  deliveries = redis.call('HINCRBY', KEYS[1], 'deliveries', -1)
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return deliveries
