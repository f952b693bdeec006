-- process_report(KEYS = [processes], ARGV = [process or '', record, ttl ms]) -> [record...]
-- {processes}  hash: process -> when it reported (ms), a space, and the record as JSON.
-- Takes one report, where *process* is named. Records older than the TTL are dropped, the others returned to whoever
-- names no process.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now) .. ' ' .. ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
local all, records = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  local at = tonumber(string.match(all[i + 1], '^%d+') or 0)
  if at < now - ARGV[3] then
    redis.call('HDEL', KEYS[1], all[i])
  elseif ARGV[1] == '' then
    table.insert(records, (string.gsub(all[i + 1], '^%d+ ', '')))
  end
end
return records
