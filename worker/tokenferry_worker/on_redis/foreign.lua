-- What scripts on entries share that the whole fleet depends on: an entry that nobody of us wrote must not stop it.

-- True if *key* holds another type than *kind*: then nobody of us wrote it.
local COUNTS = {hash = 'HLEN', list = 'LLEN', set = 'SCARD', string = 'STRLEN', zset = 'ZCARD'}
local function is_foreign(key, kind)
  local reply = redis.pcall(COUNTS[kind], key)
  return type(reply) == 'table' and reply.err ~= nil
end
-- Deletes such an entry, so that the right one can be written in its place.
local function heal(key, kind)
  if is_foreign(key, kind) then redis.call('DEL', key) end
end
