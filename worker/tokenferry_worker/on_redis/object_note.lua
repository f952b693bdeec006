-- object_note(KEYS = [object], ARGV = [token, ttl ms]) -> 1
-- {object}  string: the token that became this object. For `tokenferry show` alone; nothing is decided by it.
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
