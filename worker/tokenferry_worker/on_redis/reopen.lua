-- reopen(KEYS = [journal], ARGV = [rounds told, ttl ms]) -> open | done
-- {journal}  hash: ... round: how many final outcomes there have been or will be, this one included (absent: 1).
-- Forgets an outcome that we gave up with, and the deliveries that led to it, so that the request begins once more. What
-- the endpoint itself has said stays: done. The key stays the same, because what was made with it is found by it; only a
-- stored 500 would be repeated for ever, so its successor is a new generation. Run twice, it does the same as once.
local known = redis.call('HMGET', KEYS[1], 'outcome', 'round')
local round = math.max(tonumber(known[2] or 1), ARGV[1] + 1)
if known[1] then
  local failure = cjson.decode(known[1]).failure
  if not failure or failure.source ~= 'tokenferry' then return 'done' end
  if failure.status == 500 then redis.call('HINCRBY', KEYS[1], 'epoch', 1) end
  round = math.max(round, (known[2] or 1) + 1)
  redis.call('HDEL', KEYS[1], 'outcome')
end
redis.call('HSET', KEYS[1], 'round', round, 'deliveries', 0)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 'open'
