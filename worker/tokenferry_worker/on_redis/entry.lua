-- What the scripts share that read or write the outcome of a journal entry. Its tag covers the outcome, and what
-- `facts_of` returns: of, content, epoch, generation, round (docs/formats.md, "Authentic state").

-- *content*, *generation*: what is to be written with an outcome; nil or '': what is there.
local function facts_of(key, content, generation)
  local held = redis.call('HMGET', key, 'of', 'content', 'epoch', 'generation', 'round')
  if content and content ~= '' then held[2] = content end
  if generation and generation ~= '1' then held[4] = generation end
  return {held[1] or '', held[2] or '', held[3] or '0', held[4] or '1', held[5] or '1'}
end

-- Returns {outcome, round, content, its tag, facts...}.
local function told(key)
  local known = redis.call('HMGET', key, 'outcome', 'round', 'content', 'tag')
  return {known[1] or '', tonumber(known[2] or 1), known[3] or '', known[4] or '', unpack(facts_of(key))}
end

-- Writes the first outcome. *doubted*: the caller has found that this outcome was not written by a worker: it counts as
-- none. *expected*: the facts that *tag* covers, joined. Where they are others, nothing is written, and those are
-- returned. Without a tag any will do.
local function write_outcome(key, outcome, content, generation, tag, expected, doubted)
  local known = redis.call('HGET', key, 'outcome')
  if known and known ~= doubted then return nil end
  local facts = facts_of(key, content, generation)
  if tag ~= '' and table.concat(facts, '\n') ~= expected then return facts end
  redis.call('HSET', key, 'outcome', outcome)
  redis.call('HDEL', key, 'tag')
  if tag ~= '' then redis.call('HSET', key, 'tag', tag) end
  if content ~= '' then redis.call('HSET', key, 'content', content) end
  if generation ~= '1' then redis.call('HSET', key, 'generation', generation) end
end
