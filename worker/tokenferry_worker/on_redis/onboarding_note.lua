-- onboarding_note(KEYS = [onboarding], ARGV = [step, entry, ttl ms]) -> the entry that counts
-- A step that is done stays done, whatever a slower delivery of the same message says.
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and cjson.decode(known).status == 'done' then
  return known
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return ARGV[2]
