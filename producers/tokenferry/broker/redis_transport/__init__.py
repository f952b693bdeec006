"""A kombu transport for Redis and Valkey that has no moment in which a message is in neither place.

Same keys and same message format as kombu's own Redis transport, so stock producers and consumers can share a queue.
What differs:

* *Taking* is one Lua script for all queues of a channel: registered as unacknowledged, then popped (``take.lua``).
* *Waiting* removes nothing. The script's reads arm ``CLIENT TRACKING`` on the connection it came over, and the
  server pushes a line to us when one of the lists changes. One connection for any number of queues, no polling.
* *Leases*: a thread renews every delivery this channel holds. A process that dies or freezes stops renewing, and any
  other consumer puts its messages back at the consumed end of the queue. The server's clock decides, nobody else's.
  Each hand-over has a tag of its own: who wakes too late has no say in what is another's by now.
* *Credit* is per queue: ``prefetch_count`` deliveries of each queue, and so many bytes (``held_bytes``), so that a busy
  queue never blocks another.
* *Reading* is strict. Of an item that is too long or no message a note goes to the quarantine, and no library sees it;
  nothing is inflated; where a message came from is what we know, not what it says.
* *Acknowledgements* are noted, and travel with the next take or a few milliseconds later. They outlive a lost
  connection, and the credit comes back at once whether the broker can be reached or not.

Delivery is at least once. A consumer that is frozen for longer than its lease, or a server clock that jumps by more
than a lease, leads to a second delivery, never to a loss. Broadcast (fanout) messages stay as in the stock transport,
except that they are not registered: acknowledging one does nothing. Needs Redis 6.2 or any Valkey, not a cluster.
"""

from tokenferry.broker.redis_transport.addresses import kombu_url
from tokenferry.broker.redis_transport.channel import Channel
from tokenferry.broker.redis_transport.register import NOTED
from tokenferry.broker.redis_transport.transport import Transport
from tokenferry.broker.redis_transport.waiter import ask_to_track
from tokenferry.contract.queues import QUARANTINE

__all__ = ["NOTED", "QUARANTINE", "Channel", "Transport", "ask_to_track", "kombu_url"]
