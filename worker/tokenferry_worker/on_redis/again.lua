-- again(KEYS = [journal], ARGV = [the outcome that left nothing behind, its generation, ttl ms]) -> 1 | 0
-- Begins the next generation of an id: what the last one stood for and came to is forgotten. Its round is the next one,
-- so that its outcome has an id of its own. 0: the entry is not as the caller saw it. Run twice, it does it once.
local known = redis.call('HMGET', KEYS[1], 'outcome', 'generation', 'round')
if known[1] ~= ARGV[1] or (known[2] or '1') ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], 'outcome', 'tag', 'content', 'of', 'deliveries', 'epoch', 'doubted')
redis.call('HSET', KEYS[1], 'generation', ARGV[2] + 1, 'round', (known[3] or 1) + 1)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
