-- done(KEYS = [budget...], ARGV = [permit id]) -> 1
-- The call of a permit is over, however it ended: it does not count as in flight any more.
for _, key in ipairs(KEYS) do
  redis.pcall('ZREM', key .. ':calls', ARGV[1])
end
return 1
