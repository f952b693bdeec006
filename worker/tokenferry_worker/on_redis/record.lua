-- record(KEYS = [journal, place ahead...], ARGV = [outcome, ttl ms, request id, 1 if it is our word])
--   -> {the outcome that counts, round} | nil
-- The first outcome written is the final one; a slower twin is told so and repeats it. Seats of go_ahead are given up.
-- nil: our word against an outcome that this store may have had, for it has lost what begin wrote.
if ARGV[4] == '1' and redis.call('HEXISTS', KEYS[1], 'deliveries') == 0 then return nil end
redis.call('HSETNX', KEYS[1], 'outcome', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
for i = 2, #KEYS do redis.call('ZREM', KEYS[i], ARGV[3]) end
local known = redis.call('HMGET', KEYS[1], 'outcome', 'round')
return {known[1], tonumber(known[2] or 1)}
