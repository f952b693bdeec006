-- begin(KEYS = [journal, born, accepted], ARGV = [ttl ms, what the id stands for, generation])
--   -> {deliveries, epoch, outcome or '', round, born, content or ''} | {recorded generation, outcome or ''}
-- {journal}  hash: deliveries, epoch, outcome, round (see reopen), of: a digest of what the id stands for;
--            content: the mark of what the outcome is about; generation (absent: 1; see again).
-- Counts this delivery, and returns what is known. Two values: the id stands for something else, or another generation
-- of it counts, and nothing is changed. Of an id that is not known every generation begins.
-- Every worker process has seen {born} before its first delivery. Where it is gone, the store was wiped: it begins now.
local asked = tonumber(ARGV[3])
local had = redis.call('HMGET', KEYS[1], 'of', 'generation', 'outcome')
local generation = tonumber(had[2] or ((had[1] or had[3]) and 1 or asked))
if generation ~= asked or (ARGV[2] ~= '' and had[1] and had[1] ~= ARGV[2]) then
  return {generation, had[3] or ''}
end
if ARGV[2] ~= '' then redis.call('HSETNX', KEYS[1], 'of', ARGV[2]) end
if asked > 1 then redis.call('HSETNX', KEYS[1], 'generation', asked) end
local deliveries = redis.call('HINCRBY', KEYS[1], 'deliveries', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local known = redis.call('HMGET', KEYS[1], 'epoch', 'outcome', 'round', 'content')
local born = unless_accepted(birth(KEYS[2]) or bear(KEYS[2], now), KEYS[3])
return {deliveries, tonumber(known[1] or 0), known[2] or '', tonumber(known[3] or 1), born, known[4] or ''}
