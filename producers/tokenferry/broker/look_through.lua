-- look_through(KEYS = [list], ARGV = [first, last, most bytes of one entry, most bytes in all]) -> [entry...], the last first
--
-- Returns entries of a list from `last` down to `first`: as many as fit, and at least one. An entry that is too long
-- to be ours is replaced in the list by a note of its length, so that no reader has to hold it.
local first, last, longest, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local some = redis.call('LRANGE', KEYS[1], first, last)
local found, bytes = {}, 0
for back = 1, #some do
  local entry, at = some[#some + 1 - back], last + 1 - back
  if #entry > longest then
    entry = string.format('{"reason": "longer than any message of ours", "message": "", "bytes": %d}', #entry)
    redis.call('LSET', KEYS[1], at, entry)
  end
  if bytes > 0 and bytes + #entry > most then break end
  bytes = bytes + #entry
  found[#found + 1] = entry
end
return found
