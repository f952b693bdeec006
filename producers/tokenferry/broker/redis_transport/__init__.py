"""A kombu transport for Redis and Valkey in which a message is at every moment in a queue or registered as taken.

Keys and message format are those of kombu's own Redis transport, so stock producers and consumers can share a queue.
What differs:

* *Taking* is one Lua script for all queues of a channel: it registers a message as unacknowledged, then pops it
  (``take.lua``).
* *Waiting* removes nothing. The reads of the script arm ``CLIENT TRACKING`` on its connection, and the server pushes
  a line to us when one of the lists changes. One connection serves any number of queues, without polling.
* *Registers*: workers have one per role (``unacked.tokenize``), readers one per route (``unacked.results.shop``). So
  nobody needs a right on what another one has in hand. Every other queue, and whatever kombu's own transport takes, is
  in ``unacked``. What is given back goes to a queue of its register, or becomes a note in the quarantine.
* *Leases*: a thread renews every delivery that this channel holds. A process that dies or freezes stops renewing, and
  any other consumer puts its messages back at the consumed end of the queue. Only the server's clock decides. Each
  delivery has its own tag: a late holder cannot change a delivery that another consumer owns now.
* *Credit* is per queue: ``prefetch_count`` deliveries of each queue, and so many bytes (``held_bytes``). So a busy
  queue never blocks another.
* *Reading* is strict. An item that is too long or no message becomes a note in the quarantine, and no library sees it.
  Nothing is inflated. The queue of a message is the list it lay in, whatever the message says.
* *Acknowledgements* are noted, and travel with the next take or a few milliseconds later. They outlive a lost
  connection, and their credit comes back at once even if the broker cannot be reached.

Delivery is at least once. A consumer that is frozen for longer than its lease, or a server clock that jumps by more
than a lease, leads to a second delivery, never to a loss. Broadcast (fanout) messages are as in the stock transport,
but are not registered: acknowledging one does nothing. Needs Redis 6.2 or any Valkey, and no cluster.
"""

from tokenferry.broker.redis_transport.addresses import kombu_url
from tokenferry.broker.redis_transport.channel import Channel
from tokenferry.broker.redis_transport.register import NOTED
from tokenferry.broker.redis_transport.transport import Transport
from tokenferry.broker.redis_transport.waiter import ask_to_track
from tokenferry.contract.queues import QUARANTINE

__all__ = ["NOTED", "QUARANTINE", "Channel", "Transport", "ask_to_track", "kombu_url"]
