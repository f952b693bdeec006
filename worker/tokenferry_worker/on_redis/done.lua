-- done(KEYS = [budget...], ARGV = [call]) -> 1
-- A call is over, however it ended: it does not count as under way any more.
for _, key in ipairs(KEYS) do
  redis.call('ZREM', key .. ':calls', ARGV[1])
end
return 1
