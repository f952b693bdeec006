-- What every script on circuits shares. A circuit is a hash (circuit_open.lua says which fields). An entry that is
-- not that counts as no circuit, so that it cannot stop the fleet. circuit_look counts such entries.

-- Returns *text* as a finite number, or nil.
local function number(text)
  local read = tonumber(text or nil)
  if not read or read ~= read or math.abs(read) == math.huge then return nil end
  return read
end
local function whole(value) return string.format('%.0f', value) end
-- Returns the circuit as a table, false where there is none, or nil where the entry is not what it should be.
local function circuit(key)
  local held = redis.pcall('HMGET', key, 'status', 'code', 'request', 'opened', 'probes', 'next', 'probing', 'last')
  if held.err then return nil end
  local known = {status = number(held[1]), code = held[2], request = held[3], opened = number(held[4]),
    probes = number(held[5]), next = number(held[6]), probing = number(held[7]), last = held[8]}
  if known.status and known.code and known.request and known.opened and known.probes and known.next and known.probing then
    return known
  end
  if redis.call('EXISTS', key) == 0 then return false end
  return nil
end
-- Counts one more parked message of *scope*. A count that is no number begins again.
local function count_parked(key, scope)
  heal(key, 'hash')
  if not number(redis.call('HGET', key, scope)) then redis.call('HSET', key, scope, '0') end
  redis.call('HINCRBY', key, scope, 1)
end
