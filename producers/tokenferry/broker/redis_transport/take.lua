-- take(KEYS = [unacked, unacked_index, quarantine, list...],
--      ARGV = [seed, lists per queue, queues, (queue, credit)..., acked tag...])
--   -> [quarantined, (queue, tag, payload)...]
--
-- Forgets what was acknowledged, then moves up to `credit` messages of each queue from the tail of its lists into
-- `unacked`: registered first, popped afterwards, in one step for everybody else. A queue that had credit left was
-- read to its end, which is also what arms the caller's CLIENT TRACKING: its next change is pushed to the caller.
--
-- What nobody can read goes to the quarantine: as it is, or, where it came by the realtime lane and may hold a
-- verification code, as a word that it was there (as `remains` in register.py).
--
-- {unacked}        hash: tag -> '[ payload,"",queue]'. The stock transport's [payload, exchange, routing key], so a
--                  stock consumer could restore it; the space after the bracket is our signature (see overdue.lua).
-- {unacked_index}  zset: tag -> second of the last renewal, by this server's clock.
local unacked, leases, quarantine = KEYS[1], KEYS[2], KEYS[3]
local seed, lists, queues = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

for i = 4 + 2 * queues, #ARGV do
  redis.call('HDEL', unacked, ARGV[i])
  redis.call('ZREM', leases, ARGV[i])
end

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local reply = {0}

-- A tag names one hand-over and not the message: who held it before and comes too late has no word in what is another's
-- by now. The time is in it because a client asks again, in the same words, when an answer was lost.
seed = seed .. ':' .. time[1] .. time[2]

for q = 1, queues do
  local queue, credit = ARGV[2 + 2 * q], tonumber(ARGV[3 + 2 * q])
  for l = 1, lists do
    local list = KEYS[3 + (q - 1) * lists + l]
    local unseen = redis.call('LLEN', list)  -- not the end of the list: what is unreadable in the quarantine stays in it
    while credit > 0 and unseen > 0 do
      unseen = unseen - 1
      local payload = redis.call('LINDEX', list, -1)
      local readable, message = pcall(cjson.decode, payload)
      if readable and type(message) == 'table' then
        local tag = seed .. ':' .. #reply
        redis.call('HSET', unacked, tag, '[ ' .. payload .. ',"",' .. cjson.encode(queue) .. ']')
        redis.call('ZADD', leases, now + #reply / 1000000, tag)
        redis.call('RPOP', list)
        reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = queue, tag, payload
        credit = credit - 1
      else
        local kept = payload
        if string.find(list, 'tokenize.realtime.', 1, true) then
          kept = string.format('{"reason": "undecodable message", "message": "", "bytes": %d}', #payload)
        end
        redis.call('LPUSH', quarantine, kept)
        redis.call('RPOP', list)
        reply[1] = reply[1] + 1
      end
    end
    -- After the last pop, which has disarmed the tracking of this list: our own changes make no news, and end it.
    if credit > 0 then redis.call('LLEN', list) end
  end
end
return reply
