-- policy_note(KEYS = [policy], ARGV = [1: a worker has read a policy; 0: ask only]) -> 1 if one ever has, else 0
-- {policy}  string "1", without an end: from then on no worker works without a policy.
if ARGV[1] == '1' then
  redis.call('SET', KEYS[1], '1')
  return 1
end
return redis.call('EXISTS', KEYS[1])
