-- begin(KEYS = [journal], ARGV = [ttl ms]) -> {deliveries, epoch, outcome or ''}
-- {journal}  hash: deliveries, epoch, outcome. Counts this delivery and says what is already known.
local deliveries = redis.call('HINCRBY', KEYS[1], 'deliveries', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local known = redis.call('HMGET', KEYS[1], 'epoch', 'outcome')
return {deliveries, tonumber(known[1] or 0), known[2] or ''}
