-- claim(KEYS = [token, journal of the order?],
--       ARGV = [by, lease ms, ttl ms, lost, generation, platform, mode, account, kind, account as well])
--   -> {state, by, fence, past, object, type, stored, made, outcome,
--       recorded state, recorded by, platform, mode, account, kind, made_tag, spent_tag, tag of the outcome, facts...}
-- {token}  hash: state (lifecycle.py), by = attach id, fence = number of the lease, until = server ms;
--          of a token made here, to whom it belongs: platform, mode, account, kind; and made = when (Unix ms);
--          of a spent one, what it became: object, type, stored; the tags of both: made_tag, spent_tag;
--          doubted = 1 once its record did not verify (doubt.lua).
-- state: granted | held | spent | burnt | expired | unknown | misfit | told (it has its outcome, and gets no token)
--        | superseded (a later generation of the order has begun)
-- by: who has or had the token; for misfit, the part of the scope that differs
-- past: 0 untried, 1 held and not given back, or used up by this order, 2 used by nobody knows whom, 3 no record of it,
--       4 its record did not verify
-- The same order gets the token again at any time: the delivery that had it is dead, or stops as soon as it notices.
-- But a delivery that has lost its lease (*lost*: the fence) waits while a later lease lives. Else two deliveries could
-- take turns for ever. Another order gets the token when it is free. Where a lease ran out, only the order that had it
-- can find out what became of the token.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local held = redis.call('HMGET', KEYS[1], 'state', 'by', 'until', 'fence', 'object', 'type', 'stored', 'made',
  'platform', 'mode', 'account', 'kind', 'made_tag', 'spent_tag', 'doubted')
local state, by, fence = held[1], held[2] or '', tonumber(held[4] or 0) or 0
if not (fence >= 0 and fence < 2 ^ 53) then fence = 0 end -- none that a worker wrote
local function reply(answer, who, past, outcome)
  local number = string.format('%.0f', fence)
  return {answer, who, number, past, held[5] or '', held[6] or '', held[7] or '', held[8] or '', outcome or '',
    state or '', by, held[9] or '', held[10] or '', held[11] or '', held[12] or '', held[13] or '', held[14] or ''}
end
local journal = KEYS[2] and redis.call('HMGET', KEYS[2], 'outcome', 'generation') or {}
if tonumber(journal[2] or 1) > tonumber(ARGV[5] or 1) then return reply('superseded', ARGV[1], 0) end
if journal[1] then
  local answer = reply('told', ARGV[1], 0, journal[1])
  table.insert(answer, redis.call('HGET', KEYS[2], 'tag') or '')
  for _, fact in ipairs(facts_of(KEYS[2])) do table.insert(answer, fact) end
  return answer
end
for i, name in ipairs({'platform', 'mode', 'account', 'kind'}) do
  local recorded, asked = held[8 + i], ARGV[5 + i]
  if recorded and asked and recorded ~= asked and not (name == 'account' and recorded == ARGV[10]) then
    return reply('misfit', name, 0)
  end
end
local mine = by == ARGV[1]
if state == 'spent' or state == 'burnt' or state == 'expired' then
  return reply(state, by, mine and 1 or held[8] and 0 or 3)
end
local doubtful = state == 'leased' or state == 'unknown'
local lives = state == 'leased' and tonumber(held[3] or 0) > now
if doubtful and not mine and by ~= '' then
  if lives then return reply('held', by, 0) end
  redis.call('HSET', KEYS[1], 'state', 'unknown')
  return reply('unknown', by, 0)
end
if lives and fence > (tonumber(ARGV[4]) or fence) then return reply('held', by, 0) end
-- No lower than the clock, in microseconds: so leases from before a wipe have lower fences.
fence = math.max(fence + 1, clock[1] * 1000000 + clock[2])
redis.call('HSET', KEYS[1], 'state', 'leased', 'by', ARGV[1], 'fence', string.format('%.0f', fence),
  'until', string.format('%.0f', now + ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local past = 0
if held[15] then past = 4 elseif doubtful then past = by ~= '' and 1 or 2 elseif not held[8] then past = 3 end
return reply('granted', ARGV[1], past)
