-- begin(KEYS = [journal, born, accepted], ARGV = [ttl ms, what the id stands for, generation])
--   -> {deliveries, epoch, born, doubted 1 | 0, told...} | {recorded generation, told...} (see entry.lua)
-- {journal}  hash: deliveries, epoch, outcome, round (see reopen), of: a digest of what the id stands for;
--            content: the mark of what the outcome is about; generation (absent: 1; see again); tag (see entry.lua);
--            doubted = 1 once an outcome was found that no worker had written (distrust).
-- Counts this delivery, and returns what is known. The short answer: the id stands for something else, or another generation
-- of it counts, and nothing is changed. Of an id that is not known every generation begins.
-- Every worker process has seen {born} before its first delivery. Where it is gone, the store was wiped: it begins now.
local asked = tonumber(ARGV[3])
local had = redis.call('HMGET', KEYS[1], 'of', 'generation', 'outcome')
local generation = tonumber(had[2] or ((had[1] or had[3]) and 1 or asked))
if generation ~= asked or (ARGV[2] ~= '' and had[1] and had[1] ~= ARGV[2]) then
  return {generation, unpack(told(KEYS[1]))}
end
if ARGV[2] ~= '' then redis.call('HSETNX', KEYS[1], 'of', ARGV[2]) end
if asked > 1 then redis.call('HSETNX', KEYS[1], 'generation', asked) end
local deliveries = redis.call('HINCRBY', KEYS[1], 'deliveries', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local known = redis.call('HMGET', KEYS[1], 'epoch', 'doubted')
local born = unless_accepted(birth(KEYS[2]) or bear(KEYS[2], now), KEYS[3])
return {deliveries, tonumber(known[1] or 0), born, known[2] and 1 or 0, unpack(told(KEYS[1]))}
