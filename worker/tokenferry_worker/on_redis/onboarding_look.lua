-- onboarding_look(KEYS = [onboarding], ARGV = [ttl ms]) -> {step, entry, step, entry, ...}
-- {onboarding}  hash: step name -> record of the step as JSON: ids and codes, nothing of the document.
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('HGETALL', KEYS[1])
