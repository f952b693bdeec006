-- take(KEYS = [(unacked, unacked_index of each register)..., (the lists of each queue)...],
--      ARGV = [seed, quarantine, most bytes of one message, most bytes in all, most refusals, registers, queues,
--              (name, milliseconds of life) of each register..., (queue, number of its register, lists, credit, room)...,
--              (number of its register, acked tag)...])
--   -> [refused, cut short (0 or 1), (queue, tag, payload)...]
--
-- Removes what was acknowledged. Then moves up to `credit` messages of each queue from the tail of its lists into
-- `unacked`, until they fill `room` bytes: each is registered first and popped afterwards, in one atomic step.
-- A queue with credit and room left was read to its end. That read arms CLIENT TRACKING: the server pushes the next
-- change of the queue to the caller. A take that was cut short, by bytes or refusals, has not read to the end: the
-- caller takes again.
--
-- An unreadable or too long message becomes a note in the quarantine: reason, time, length. No content, because a card
-- number or a verification code may be inside. Messages in the quarantine itself stay as they are. The quarantine is no
-- key of this script, because a user needs no right to read it.
--
-- The tag of a delivery ends with the name of its register.
--
-- A register with a life, and the lists of its queues, are dropped so long after the last take that found something
-- in them: the one process that reads them is gone then. 0: they stay.
--
-- {unacked}        hash: tag -> '[ payload,"",queue]'. The stock transport's [payload, exchange, routing key], so a
--                  stock consumer could restore it; the space after the bracket marks ours (see overdue.lua).
-- {unacked_index}  zset: tag -> second of the last renewal, by this server's clock.
local seed, quarantine, longest = ARGV[1], ARGV[2], tonumber(ARGV[3])
local most_bytes, most_refused = tonumber(ARGV[4]), tonumber(ARGV[5])
local registers, queues = tonumber(ARGV[6]), tonumber(ARGV[7])

for i = 8 + 2 * registers + 5 * queues, #ARGV, 2 do
  local register = tonumber(ARGV[i])
  redis.call('HDEL', KEYS[2 * register - 1], ARGV[i + 1])
  redis.call('ZREM', KEYS[2 * register], ARGV[i + 1])
end

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local reply = {0, 0}
local bytes = 0  -- read so far, refused or not

-- A tag names one delivery, not the message: a late holder cannot change a delivery that another consumer owns now.
-- The time is in it because a client repeats the same command when an answer was lost.
seed = seed .. ':' .. time[1] .. time[2]

local function refusal(payload)
  if #payload > longest then return 'longer than any message of ours' end
  local readable, message = pcall(cjson.decode, payload)
  if not readable or type(message) ~= 'table' then return 'undecodable message' end
end

local lists_before = 2 * registers
for q = 1, queues do
  local at = 7 + 2 * registers + 5 * (q - 1)
  local queue, register, lists = ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local credit, room = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
  local unacked, leases = KEYS[2 * register - 1], KEYS[2 * register]
  local name, life = ARGV[6 + 2 * register], tonumber(ARGV[7 + 2 * register])
  local ending = name ~= '' and '/' .. name or ''
  for l = 1, lists do
    local list = KEYS[lists_before + l]
    local unseen = redis.call('LLEN', list)  -- counted once: what is refused in the quarantine goes back into it
    while credit > 0 and room > 0 and unseen > 0 do
      unseen = unseen - 1
      local payload = redis.call('LINDEX', list, -1)
      if reply[1] >= most_refused or (bytes > 0 and bytes + #payload > most_bytes) then
        reply[2] = 1
        return reply
      end
      bytes = bytes + #payload
      local reason = refusal(payload)
      if not reason then
        local tag = seed .. ':' .. #reply .. ending
        redis.call('HSET', unacked, tag, '[ ' .. payload .. ',"",' .. cjson.encode(queue) .. ']')
        redis.call('ZADD', leases, now + #reply / 1000000, tag)
        redis.call('RPOP', list)
        reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = queue, tag, payload
        credit, room = credit - 1, room - #payload
      else
        local kept = payload
        if list ~= quarantine or #payload > longest then
          kept = string.format('{"reason": "%s", "at": %d, "message": "", "bytes": %d}', reason, now * 1000, #payload)
        end
        redis.call('LPUSH', quarantine, kept)
        redis.call('RPOP', list)
        reply[1] = reply[1] + 1
      end
    end
    if life > 0 and #reply > 2 then
      for _, key in ipairs({unacked, leases, list}) do redis.call('PEXPIRE', key, life) end
    end
    -- After the last pop: our own change disarms the tracking of this list without a notice, so read it once more.
    if credit > 0 and room > 0 then redis.call('LLEN', list) end
  end
  lists_before = lists_before + lists
end
return reply
