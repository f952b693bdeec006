-- overdue(KEYS = [unacked, unacked_index],
--         ARGV = [lease seconds, visibility timeout seconds, at most, most bytes of one message, most bytes in all,
--                 name or first word of a queue of ours...])
--   -> [(tag, lease, registered value)...], the youngest first
--
-- Finds the deliveries whose lease was not renewed in time. A lease in the future means that this server's clock was
-- set back: it counts as over, because waiting for it could take for ever. A stock consumer never renews what it has
-- registered (no space after the bracket), so that is left alone for its own, much longer, visibility timeout. What it
-- took from a queue that is not ours is left to others of its kind.
--
-- The value is '' for what is longer than a take registers: it cannot be used.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local lease, visibility, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local longest, most_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local found, bytes = {}, 0

local ours = {}
for i = 6, #ARGV do ours[ARGV[i]] = true end

local function is_left_to_others(value, score)
  if string.sub(value, 1, 2) == '[ ' then return false end
  if score >= now - visibility then return true end
  local queue = string.match(value, '"([^"]*)"%]$') or ''
  return not (ours[queue] or ours[string.match(queue, '^[^.]*')])
end

local function collect(tags)
  for _, tag in ipairs(tags) do
    if #found >= 3 * most or bytes >= most_bytes then return end
    local value, score = redis.call('HGET', KEYS[1], tag), redis.call('ZSCORE', KEYS[2], tag)
    if not value then
      redis.call('ZREM', KEYS[2], tag)
    elseif is_left_to_others(value, tonumber(score)) then  -- a stock consumer's
    elseif math.abs(now - tonumber(score)) >= (tonumber(string.match(tag, '@([%d.]+):')) or lease) then
      if #value > longest then value = '' end
      found[#found + 1], found[#found + 2], found[#found + 3] = tag, score, value
      bytes = bytes + #value
    end
  end
end

collect(redis.call('ZREVRANGEBYSCORE', KEYS[2], now - lease, '-inf'))
collect(redis.call('ZREVRANGEBYSCORE', KEYS[2], '+inf', now + lease))
return found
