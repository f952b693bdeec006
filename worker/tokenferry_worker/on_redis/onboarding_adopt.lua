-- onboarding_adopt(KEYS = [onboarding, tags], ARGV = [(step, entry, tag)...]) -> how many entries got a tag
-- Tags entries of the version before, if they are as they were read and have none.
local adopted = 0
for i = 1, #ARGV, 3 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    adopted = adopted + redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 2])
  end
end
local left = redis.call('PTTL', KEYS[1])
if left > 0 then redis.call('PEXPIRE', KEYS[2], left) end
return adopted
