-- record(KEYS = [journal, slot...],
--        ARGV = [outcome, ttl ms, request id, 1 if it is a failure of ours, content or '', generation,
--                tag, expected facts, doubted outcome])
--   -> told | facts | {} | nil (see entry.lua)
-- The first outcome that is written is final. A slower delivery gets it back, and publishes it again. Slots are freed.
-- nil: the store has lost what begin wrote, and with it perhaps an outcome that is better than a failure of ours.
-- {}: a later generation has begun, and nothing is written.
if ARGV[4] == '1' and redis.call('HEXISTS', KEYS[1], 'deliveries') == 0 then return nil end
if tonumber(redis.call('HGET', KEYS[1], 'generation') or 1) > tonumber(ARGV[6]) then return {} end
local others = write_outcome(KEYS[1], ARGV[1], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9])
if others then return others end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
for i = 2, #KEYS do redis.pcall('ZREM', KEYS[i], ARGV[3]) end
return told(KEYS[1])
