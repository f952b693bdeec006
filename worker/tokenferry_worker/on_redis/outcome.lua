-- outcome(KEYS = [journal]) -> {outcome or '', generation}
-- What an id came to. Changes nothing.
local known = redis.call('HMGET', KEYS[1], 'outcome', 'generation')
return {known[1] or '', tonumber(known[2] or 1)}
