-- record(KEYS = [journal, slot...],
--        ARGV = [outcome, ttl ms, request id, 1 if it is a failure of ours, content or '', generation])
--   -> {the outcome that counts, round, content or ''} | {} | nil
-- The first outcome that is written is final. A slower delivery gets it back, and publishes it again. Slots are freed.
-- nil: the store has lost what begin wrote, and with it perhaps an outcome that is better than a failure of ours.
-- {}: a later generation has begun, and nothing is written.
if ARGV[4] == '1' and redis.call('HEXISTS', KEYS[1], 'deliveries') == 0 then return nil end
if tonumber(redis.call('HGET', KEYS[1], 'generation') or 1) > tonumber(ARGV[6]) then return {} end
if redis.call('HSETNX', KEYS[1], 'outcome', ARGV[1]) == 1 then
  if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'content', ARGV[5]) end
  if ARGV[6] ~= '1' then redis.call('HSET', KEYS[1], 'generation', ARGV[6]) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
for i = 2, #KEYS do redis.call('ZREM', KEYS[i], ARGV[3]) end
local known = redis.call('HMGET', KEYS[1], 'outcome', 'round', 'content')
return {known[1], tonumber(known[2] or 1), known[3] or ''}
