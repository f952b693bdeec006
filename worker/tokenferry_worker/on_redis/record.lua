-- record(KEYS = [journal], ARGV = [outcome, ttl ms]) -> the outcome that counts
-- The first outcome written is the final one; a slower twin is told so and repeats it.
redis.call('HSETNX', KEYS[1], 'outcome', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('HGET', KEYS[1], 'outcome')
