-- step_back(KEYS = [place...], ARGV = [request id]) -> 1
-- Gives up the seats that go_ahead took.
for _, place in ipairs(KEYS) do redis.call('ZREM', place, ARGV[1]) end
return 1
