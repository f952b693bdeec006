"""What a RabbitMQ node itself knows, asked in its own language: at once and exactly.

`rabbitmqctl list_queues` shows counters that are seconds old, and half a second of CPU goes into each call.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

COUNTED: Final = """\
Count = fun(Queue) ->
    case amqqueue:get_type(Queue) of
        rabbit_quorum_queue ->
            case ra:local_query(amqqueue:get_pid(Queue), fun rabbit_fifo:query_messages_total/1) of
                {ok, {_, Messages}, _} -> Messages;
                _ -> -1
            end;
        _ -> proplists:get_value(messages, rabbit_amqqueue:info(Queue, [messages]))
    end
end,
Line = fun(Queue) -> [element(4, amqqueue:get_name(Queue)), "=", integer_to_list(Count(Queue)), " "] end,
binary_to_list(iolist_to_binary([Line(Queue) || Queue <- rabbit_amqqueue:list(<<"%s">>)])).
"""
MEMBER: Final = """\
{ok, Queue} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"%s">>, queue, <<"%s">>)),
ra:%s(quorum_queues, amqqueue:get_pid(Queue)).
"""
ADDED: Final = """\
ok = rabbit_vhost:add(<<"{0}">>, <<"guest">>),
ok = rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{0}">>, <<".*">>, <<".*">>, <<".*">>, <<"guest">>).
"""
USER: Final = """\
ok = rabbit_auth_backend_internal:add_user(<<"{0}">>, <<"pw">>, <<"guest">>),
ok = rabbit_auth_backend_internal:set_permissions(<<"{0}">>, <<"{1}">>, {2}, <<"guest">>),
ok = rabbit_auth_backend_internal:set_topic_permissions(<<"{0}">>, <<"{1}">>, <<"{4}">>, {3}, <<"guest">>).
"""
NO_USER: Final = 'ok = rabbit_auth_backend_internal:delete_user(<<"{0}">>, <<"guest">>).'
DELETED: Final = 'ok = rabbit_vhost:delete(<<"{0}">>, <<"guest">>).'
ROOT: Final = Path("/var/lib/rabbitmq")
"""Where the server of the machine keeps its cookie."""


@dataclass(frozen=True)
class Node:
    """One node on this machine."""

    name: str = "rabbit"
    cookie: str | None = None

    def messages(self, vhost: str) -> dict[str, int]:
        """Every queue and its messages, those in somebody's hand included; -1 where the queue does not say yet."""
        said = self._evaluate(COUNTED % vhost)
        return {queue: int(count) for queue, count in re.findall(r"([\w.:{}-]+)=(-?\d+)", said)}

    def quorum_queue(self, verb: str, vhost: str, queue: str) -> None:
        """Call a function of `ra` on the process of one quorum queue."""
        said = self._evaluate(MEMBER % (vhost, queue, verb))
        assert re.search(r"\bok\b", said), said

    def add_vhost(self, vhost: str) -> None:
        """Make a virtual host in which `guest` may do everything."""
        self._succeed(ADDED.format(vhost))

    def delete_vhost(self, vhost: str) -> None:
        """Remove it, with every queue in it."""
        self._succeed(DELETED.format(vhost))

    def add_user(
        self, name: str, vhost: str, rights: Sequence[str], topics: Sequence[str], *, exchange: str = "tokenferry"
    ) -> None:
        """Make a user with the password `pw`. *rights*: configure, write, read. *topics* of *exchange*: write, read."""
        binaries = (", ".join(f'<<"{text}">>'.replace("\\", "\\\\") for text in some) for some in (rights, topics))
        self._succeed(USER.format(name, vhost, *binaries, exchange))

    def delete_user(self, name: str) -> None:
        """Remove it."""
        self._succeed(NO_USER.format(name))

    def _succeed(self, expression: str) -> None:
        said = self._evaluate(expression)
        assert "ok" in said and "error" not in said, said  # noqa: PT018

    def _evaluate(self, expression: str) -> str:
        program = _erl_call()
        if program is not None and (self.cookie or (ROOT / ".erlang.cookie").exists()):
            cookie = ["-c", self.cookie] if self.cookie else []
            command, home = [program, "-sname", self.name, *cookie, "-e"], {"HOME": str(ROOT)}
            for _ in range(5):  # a busy node may miss the handshake
                done = subprocess.run(command, input=expression, env=home, capture_output=True, text=True, timeout=60)
                if done.stdout.startswith("{ok"):
                    return done.stdout
        return control(self, "eval", expression)


def control(node: Node, *arguments: str) -> str:
    """`rabbitmqctl` on *node*."""
    program = shutil.which("rabbitmqctl") or "/usr/sbin/rabbitmqctl"
    options = ["-n", node.name, "--erlang-cookie", node.cookie] if node.cookie else []
    done = subprocess.run([program, *options, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"rabbitmqctl {arguments[0]}: {done.stderr or done.stdout}"
    return done.stdout


@functools.cache
def _erl_call() -> str | None:
    """The small program beside Erlang that calls a node without being one."""
    erl = shutil.which("erl")
    found = sorted(Path(erl).resolve().parent.parent.glob("erts-*/bin/erl_call")) if erl else []
    return str(found[-1]) if found else None
