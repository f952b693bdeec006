-- history(KEYS = [changes], ARGV = [most]) -> [change as JSON, newest first...]
-- Returns the latest changes of budgets.
local changes = redis.pcall('LRANGE', KEYS[1], 0, ARGV[1] - 1)
return changes.err and {} or changes
