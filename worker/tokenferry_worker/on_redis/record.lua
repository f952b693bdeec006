-- record(KEYS = [journal, slot...], ARGV = [outcome, ttl ms, request id, 1 if it is a failure of ours])
--   -> {the outcome that counts, round} | nil
-- The first outcome that is written is final. A slower delivery gets it back, and publishes it again. Slots are freed.
-- nil: the store has lost what begin wrote, and with it perhaps an outcome that is better than a failure of ours.
if ARGV[4] == '1' and redis.call('HEXISTS', KEYS[1], 'deliveries') == 0 then return nil end
redis.call('HSETNX', KEYS[1], 'outcome', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
for i = 2, #KEYS do redis.pcall('ZREM', KEYS[i], ARGV[3]) end
local known = redis.call('HMGET', KEYS[1], 'outcome', 'round')
return {known[1], tonumber(known[2] or 1)}
