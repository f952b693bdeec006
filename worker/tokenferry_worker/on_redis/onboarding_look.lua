-- onboarding_look(KEYS = [onboarding, tags], ARGV = [ttl ms, or '']) -> {{step, entry, ...}, {step, tag, ...}}
-- {onboarding}  hash: step name -> record of the step as JSON: ids and codes, nothing of the document.
-- {tags}        hash: step name -> tag of its record.
for i = 1, ARGV[1] ~= '' and 2 or 0 do redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
return {redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
