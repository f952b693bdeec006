-- history(KEYS = [changes], ARGV = [most]) -> [change as JSON, newest first...]
-- Returns the latest changes of budgets.
if redis.call('TYPE', KEYS[1]).ok ~= 'list' then return {} end
return redis.call('LRANGE', KEYS[1], 0, ARGV[1] - 1)
