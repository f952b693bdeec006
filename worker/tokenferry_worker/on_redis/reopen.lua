-- reopen(KEYS = [journal], ARGV = [rounds told, ttl ms, generation]) -> open | done
-- {journal}  hash: ... round: the number of this final outcome, from 1 (absent: 1).
-- Deletes a failure of ours, and the count of deliveries that led to it, so that the request begins once more. An
-- outcome of Stripe's stays: done. The idempotency key stays the same, because Stripe finds by it what it has made.
-- An entry of another generation stays, too: the worker refuses the message. Only a stored 500 would be repeated for
-- ever, so a new epoch of the key begins. Run twice, it does the same as once.
local known = redis.call('HMGET', KEYS[1], 'outcome', 'round', 'generation')
if redis.call('EXISTS', KEYS[1]) == 0 then
  if ARGV[3] ~= '1' then redis.call('HSET', KEYS[1], 'generation', ARGV[3]) end
elseif (known[3] or '1') ~= ARGV[3] then
  return 'done'
end
local round = math.max(tonumber(known[2] or 1), ARGV[1] + 1)
if known[1] then
  local failure = cjson.decode(known[1]).failure
  if not failure or failure.source ~= 'tokenferry' then return 'done' end
  if failure.status == 500 then redis.call('HINCRBY', KEYS[1], 'epoch', 1) end
  round = math.max(round, (known[2] or 1) + 1)
  redis.call('HDEL', KEYS[1], 'outcome', 'tag')
end
redis.call('HSET', KEYS[1], 'round', round, 'deliveries', 0)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 'open'
