-- What the scripts share that ask when the store began. Two keys:
-- {born}      string: when the store began, in Unix milliseconds of its own clock. 0: before anybody wrote it down.
-- {accepted}  hash: born (the store that an operator has said is new on purpose), at, by, why
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function birth(key)
  local at = tonumber(redis.call('GET', key) or nil)
  if not at or at ~= at or math.abs(at) == math.huge then return nil end
  return at
end
local function bear(key, at)
  redis.call('SET', key, string.format('%.0f', at))
  return at
end
-- Returns when the store began, or 0 if an operator has accepted it.
local function unless_accepted(at, accepted)
  if redis.call('HGET', accepted, 'born') == string.format('%.0f', at) then return 0 end
  return at
end
