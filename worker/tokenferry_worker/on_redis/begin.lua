-- begin(KEYS = [journal], ARGV = [ttl ms, what the id stands for]) -> {deliveries, epoch, outcome or '', round} | nil
-- {journal}  hash: deliveries, epoch, outcome, round (see reopen), of: a digest of what the id stands for.
-- Counts this delivery, and returns what is known. nil: the id stands for something else, and nothing is counted.
if ARGV[2] ~= '' then
  redis.call('HSETNX', KEYS[1], 'of', ARGV[2])
  if redis.call('HGET', KEYS[1], 'of') ~= ARGV[2] then return nil end
end
local deliveries = redis.call('HINCRBY', KEYS[1], 'deliveries', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local known = redis.call('HMGET', KEYS[1], 'epoch', 'outcome', 'round')
return {deliveries, tonumber(known[1] or 0), known[2] or '', tonumber(known[3] or 1)}
