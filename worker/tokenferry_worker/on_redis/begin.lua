-- begin(KEYS = [journal, born, accepted], ARGV = [ttl ms, what the id stands for])
--   -> {deliveries, epoch, outcome or '', round, born} | nil
-- {journal}  hash: deliveries, epoch, outcome, round (see reopen), of: a digest of what the id stands for.
-- Counts this delivery, and returns what is known. nil: the id stands for something else, and nothing is counted.
-- Every worker process has seen {born} before its first delivery. Where it is gone, the store was wiped: it begins now.
if ARGV[2] ~= '' then
  redis.call('HSETNX', KEYS[1], 'of', ARGV[2])
  if redis.call('HGET', KEYS[1], 'of') ~= ARGV[2] then return nil end
end
local deliveries = redis.call('HINCRBY', KEYS[1], 'deliveries', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local known = redis.call('HMGET', KEYS[1], 'epoch', 'outcome', 'round')
local born = unless_accepted(birth(KEYS[2]) or bear(KEYS[2], now), KEYS[3])
return {deliveries, tonumber(known[1] or 0), known[2] or '', tonumber(known[3] or 1), born}
