-- step_back(KEYS = [slot...], ARGV = [request id]) -> 1
-- Ends the counts of go_ahead.
for _, slot in ipairs(KEYS) do redis.pcall('ZREM', slot, ARGV[1]) end
return 1
