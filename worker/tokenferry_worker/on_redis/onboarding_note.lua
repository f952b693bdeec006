-- onboarding_note(KEYS = [onboarding, tags], ARGV = [step, entry, tag, ttl ms, entry that does not verify])
--   -> {the entry that counts, its tag}
-- A step that is done stays done, whatever a slower delivery of the same message says. The entry that the caller has
-- found not to verify is replaced.
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and known ~= ARGV[2] and known ~= ARGV[5] then
  local read, entry = pcall(cjson.decode, known)
  if not read or type(entry) ~= 'table' or entry.status == 'done' then
    return {known, redis.call('HGET', KEYS[2], ARGV[1]) or ''}
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
else
  redis.call('HDEL', KEYS[2], ARGV[1])
end
return {ARGV[2], ARGV[3]}
