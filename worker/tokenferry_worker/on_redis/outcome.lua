-- outcome(KEYS = [journal]) -> told (see entry.lua)
-- What an id came to. Changes nothing.
return told(KEYS[1])
