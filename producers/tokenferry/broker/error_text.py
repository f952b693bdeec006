"""Every failure of broker, store and Stripe in words: what happened, and what to do. The only place that does so.

A text is made from the type of an error and from words of ours. Client libraries quote URLs, and with them passwords;
from their texts only names of commands and queues are taken.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from amqp import exceptions as amqp
from kombu.exceptions import KombuError
from redis import exceptions as redis
from redis.sentinel import MasterNotFoundError

from tokenferry.broker.cluster import SlotAway
from tokenferry.broker.errors import (
    BrokerBlocked,
    BrokerFull,
    BrokerUnavailable,
    PublishError,
    PublishTimeout,
    QueueUnanswered,
    Unroutable,
)

CONNECTION_LOST: Final = (OSError, redis.RedisError, amqp.AMQPError, KombuError)
"""What the client libraries raise when a server goes away or refuses us."""
BUSY: Final = "it is busy or electing a leader; try again"


@dataclass(frozen=True, slots=True)
class Server:
    """A server that may fail, and the settings that are about its connection."""

    name: str
    setting: str
    """Names the server."""
    authority: str
    """What to do for a certificate of an authority that this machine does not know."""
    client_certificate: str
    """What to do when the server wants a certificate from us."""
    plain: str
    """What to do when the port speaks no TLS."""
    encrypted: str
    """What to do when the port speaks TLS and we do not."""
    cluster: str
    """What to do where keys of ours are in several slots of a cluster."""


def in_one_slot(section: str) -> str:
    """What to do about a cluster of Redis or Valkey, in which keys of *section* are in several slots."""
    return f'set [{section}] prefix to a name in braces, as in "{{ferry-{section}}}": then all keys are in one slot'


def _server(section: str) -> Server:
    return Server(
        name=f"the {section}",
        setting=f"[{section}] url",
        authority=f"set [{section}] ca_file to the certificate of its authority (PEM)",
        client_certificate=f"add ?ssl_certfile=FILE&ssl_keyfile=FILE to a rediss:// address in [{section}] url; "
        "let RabbitMQ ask for none (verify_none)",
        plain=f"write its TLS port into [{section}] url, or redis:// or amqp:// for a port without TLS",
        encrypted=f"write rediss:// or amqps:// into [{section}] url",
        cluster=in_one_slot(section),
    )


BROKER: Final = _server("broker")
STORE: Final = _server("store")


def stripe(platform: str) -> Server:
    """Stripe, as *platform* reaches it."""
    setting = f"[platforms.{platform}] base_url"
    return Server(
        name="Stripe",
        setting=setting,
        authority="set [worker] ca_file, or SSL_CERT_FILE, to a file with its authority (a proxy's, for instance)",
        client_certificate="Stripe asks for none: look for a proxy between here and there",
        plain=f"correct the port in {setting}, or write http:// for an emulator on this machine",
        encrypted=f"write https:// into {setting}",
        cluster=f"see {setting}",
    )


@dataclass(frozen=True, slots=True)
class ConnectionFailure:
    """What happened, as words that follow the server's name, and what to do about it."""

    says: str
    do: str
    silent: bool = False
    """Whether no answer came in time: what was sent may have arrived."""

    def of(self, server: Server) -> str:
        """One line about *server*."""
        return f"{server.name} {self.says}; {self.do}"


def explain(error: BaseException, server: Server = BROKER) -> ConnectionFailure:
    """What *error* of a client library means.

    >>> print(explain(ConnectionRefusedError(), STORE).of(STORE))
    the store could not be reached (Connection refused); start it, or correct host and port in [store] url
    >>> explain(redis.AuthenticationError("redis://:secret@host")).says
    'refuses the user name or password'
    """
    chain = list(_chain(error))
    for reads in (_room, _tls, _proxy, _redis, _amqp, _network, _lost):
        for cause in chain:
            if (failure := reads(cause, server)) is not None:
                return failure
    return ConnectionFailure(f"cannot be used ({type(error).__name__})", f"see {server.setting}")


def want_of_room(answer: BaseException) -> str | None:
    """What the broker has too little of and what to do; None if *answer* says something else."""
    match answer:
        case amqp.MessageNacked():
            return "the queue is full"
        case redis.OutOfMemoryError():
            return "it is out of memory"
        case BrokerBlocked():
            return (
                "it is short of memory or disk, and its alarm stops all who publish; "
                "make room there (rabbitmq-diagnostics alarms says of what), and it goes on by itself"
            )
        case redis.ResponseError() if str(answer).startswith("MISCONF "):
            return (
                "it cannot write to its disk (MISCONF), which is full or not writable; "
                "make room there (its log says what fails), and it goes on by itself"
            )
        case redis.ResponseError() if str(answer).startswith("NOREPLICAS "):
            return "it has fewer replicas than min-replicas-to-write asks for, and goes on by itself once they are back"
    return None


def connection_failure(error: BaseException) -> PublishError:
    """What a failure of the broker's connection means to everyone whose message waits. Nothing was sent."""
    if isinstance(error, QueueUnanswered):
        return BrokerUnavailable(str(error), maybe_sent=False)
    if why := want_of_room(error):
        return BrokerFull(f"the broker takes no messages: {why}", maybe_sent=False)
    if isinstance(error, amqp.InternalError):
        text = f"RabbitMQ could not answer for a queue ({error.reply_code}): {BUSY}"
        return BrokerUnavailable(text, maybe_sent=False)
    if not isinstance(error, CONNECTION_LOST):
        return PublishError(f"the broker client failed ({type(error).__name__})", maybe_sent=False)
    failure = explain(error, BROKER)
    kind = PublishTimeout if failure.silent else BrokerUnavailable
    return kind(failure.of(BROKER), maybe_sent=False)


def refused_message(answer: Exception, *, maybe_sent: bool) -> PublishError:
    """What the broker's *answer* to one message means."""
    if why := want_of_room(answer):
        return BrokerFull(f"the broker refused the message: {why}", maybe_sent=maybe_sent)
    if isinstance(answer, Unroutable):
        text = "no queue took it, because its queue was deleted; send it again, and the queue is declared anew"
    else:
        failure = explain(answer, BROKER)
        text = f"it {failure.says}; {failure.do}"
    return PublishError(f"the broker refused the message: {text}", maybe_sent=maybe_sent)


# -- one function for each kind of cause


def _room(cause: BaseException, server: Server) -> ConnectionFailure | None:
    says, _, do = (want_of_room(cause) or "").partition("; ")
    return ConnectionFailure(says.removeprefix("it "), do or "make room there") if says else None


_CERTIFICATE: Final[Mapping[int, tuple[str, str]]] = {
    9: ("shows a certificate that is not valid yet", "check the clocks of both machines"),
    10: ("shows a certificate that has expired", "renew the certificate there, or correct the clock of this machine"),
}
"""By the code that OpenSSL gives (X509_V_ERR_...)."""
_OTHER_NAME: Final = frozenset({62, 64})
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH", "RECORD_LAYER_FAILURE")


def _tls(cause: BaseException, server: Server) -> ConnectionFailure | None:
    match cause:
        case ssl.SSLCertVerificationError():
            return _certificate(cause, server)
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            do = f"if it wants a certificate from us: {server.client_certificate}; if it speaks no TLS: {server.plain}"
            return ConnectionFailure("ended the TLS connection without giving a reason", do)
        case ssl.SSLError(reason=str(reason)):  # aiohttp's own have none, and are raised from one that has
            return _handshake(reason.upper(), server)
        case TimeoutError() if "handshake" in str(cause):
            return ConnectionFailure(
                "did not answer the TLS handshake", f"if it speaks no TLS: {server.plain}", silent=True
            )
    return None


def _certificate(cause: ssl.SSLCertVerificationError, server: Server) -> ConnectionFailure:
    code = int(getattr(cause, "verify_code", 0))
    if code in _CERTIFICATE:
        return ConnectionFailure(*_CERTIFICATE[code])
    if code in _OTHER_NAME:
        do = f"write a name of its certificate into {server.setting}, or give it a certificate for this name"
        return ConnectionFailure("shows a certificate for another name", do)
    what = "that is self-signed" if code == 18 else "of an authority"
    return ConnectionFailure(f"shows a certificate {what} which this machine does not trust", server.authority)


def _handshake(reason: str, server: Server) -> ConnectionFailure:
    if any(word in reason for word in _NO_TLS):
        return ConnectionFailure("speaks no TLS on this port", server.plain)
    if "CERTIFICATE_REQUIRED" in reason:
        return ConnectionFailure("wants a certificate from us", server.client_certificate)
    if "UNKNOWN_CA" in reason or "ALERT_BAD_CERTIFICATE" in reason or "CERTIFICATE_UNKNOWN" in reason:
        return ConnectionFailure("refuses the certificate we show", "let it trust the authority of ssl_certfile")
    if "PROTOCOL" in reason:
        return ConnectionFailure("speaks only TLS versions that are refused here", "enable TLS 1.2 or newer there")
    do = f"enable TLS 1.2 or newer there; if it wants a certificate from us: {server.client_certificate}"
    return ConnectionFailure(f"refused the TLS handshake ({reason})", do)


PROXY: Final = "[worker] proxy or HTTPS_PROXY"
PROXY_WANTS_PASSWORD: Final = 407


def _proxy(cause: BaseException, server: Server) -> ConnectionFailure | None:
    # By name: the public half does not have the HTTP client.
    match type(cause).__name__:
        case "ClientProxyConnectionError" | "ProxyAway":
            return ConnectionFailure(
                "could not be reached: the proxy does not answer", f"start it, or correct its address in {PROXY}"
            )
        case "ProxyError" if cause.__cause__ is not None:
            return None  # its cause says more
        case "ClientHttpProxyError" | "ProxyError":
            status = getattr(cause, "status", None)
            if status == PROXY_WANTS_PASSWORD:
                do = f"write http://USER:PASSWORD@HOST:PORT into {PROXY}"
                return ConnectionFailure("could not be reached: the proxy refuses user or password (407)", do)
            text = f" ({status})" if isinstance(status, int) else ""
            do = f"let the proxy allow CONNECT to the host of {server.setting}; its log says why"
            return ConnectionFailure(f"could not be reached: the proxy opens no way there{text}", do)
    return None


_COMMAND: Final = re.compile(r"(?:run the|unknown command|for) [`']([A-Za-z|_-]{2,40})[`']")
_TOO_OLD: Final = ("unknown command", "unknown subcommand", "NOPROTO", "unsupported protocol")
RIGHTS: Final = "give the user the rights that docs/brokers.md lists for each program"


def _redis(cause: BaseException, server: Server) -> ConnectionFailure | None:
    match cause:
        case redis.AuthenticationWrongNumberOfArgsError():
            return ConnectionFailure(
                "knows passwords but no user names", f"leave the user name out of {server.setting}"
            )
        case redis.AuthenticationError() if getattr(cause, "status_code", None) == "NOAUTH":
            return ConnectionFailure("wants a user name or a password", f"write them into {server.setting}")
        case redis.AuthenticationError():
            return ConnectionFailure("refuses the user name or password", f"correct them in {server.setting}, or there")
        case redis.NoPermissionError():
            command = _COMMAND.search(str(cause))
            what = f"run {command[1].replace('|', ' ').upper()}" if command else "use a key that is needed"
            return ConnectionFailure(f"does not allow this user to {what} (NOPERM)", RIGHTS)
        case redis.ReadOnlyError() | redis.MasterDownError():
            do = f"name the primary in {server.setting}, or wait for the end of a failover"
            return ConnectionFailure("is a replica, which takes no writes (READONLY)", do)
        case MasterNotFoundError():
            do = f"correct the Sentinels and master= in {server.setting}, or start the Sentinels"
            return ConnectionFailure("could not be reached: no Sentinel knows a primary of this name", do)
        case SlotAway():
            do = "wait until its slot has moved or the cluster is up again: `cluster info` there says more"
            return ConnectionFailure("does not serve our keys now: it is a node of a cluster", do)
        case redis.MovedError() | redis.AskError() | redis.ClusterCrossSlotError() | redis.ClusterDownError():
            return ConnectionFailure("is a node of a cluster", server.cluster)
        case redis.BusyLoadingError():
            return ConnectionFailure("is still loading its data", "wait for it")
        case redis.InvalidResponse():
            do = f"correct host and port in {server.setting}; if it speaks TLS: {server.encrypted}"
            return ConnectionFailure("does not speak the protocol of Redis", do)
        case redis.ResponseError() | redis.ConnectionError():
            return _redis_text(cause, server)
    return None


def _redis_text(cause: redis.RedisError, server: Server) -> ConnectionFailure | None:
    """What a server says without a code of its own."""
    text = str(cause)
    if "max number of clients" in text:
        return ConnectionFailure("has no connection left (maxclients)", "raise maxclients there, or run fewer programs")
    if "ACL failure in script" in text or "executing the script can't" in text:
        says = "does not allow this user a command that a script of ours runs"
        return ConnectionFailure(says, f"`ACL LOG` there names it: {RIGHTS}")
    if "command called from script" in text:
        says = "does not know a command that a script of ours runs"
        return ConnectionFailure(says, "let no command be renamed there; its own name must work in scripts")
    if "EXEC without MULTI" in text:
        return ConnectionFailure("does not allow this user to run MULTI (NOPERM)", RIGHTS)
    if "DB index" in text:
        return ConnectionFailure(
            "has no database of this number", f"correct the number behind the host in {server.setting}"
        )
    if "cluster mode" in text:
        do = f"write database 0 in {server.setting}: a cluster has no other"
        return ConnectionFailure("is a node of a cluster", do)
    if any(word.lower() in text.lower() for word in _TOO_OLD):
        command = _COMMAND.search(text)
        what = f"the command {command[1].upper()}" if command else "a command that is needed"
        do = "use Redis 6.2 or newer, or Valkey, and no proxy that lacks commands"
        return ConnectionFailure(f"does not know {what}: it is too old, or a proxy", do)
    return None


_RESOURCE: Final = re.compile(r"access to (queue|exchange|topic) '([\w.:{}-]{1,200})'")


def _amqp(cause: BaseException, server: Server) -> ConnectionFailure | None:
    match cause:
        case amqp.AccessRefused() if "Login" in str(cause.reply_text):
            do = f"correct them in {server.setting}, or there (`guest` is let in from RabbitMQ's own machine only)"
            return ConnectionFailure("refuses the user name or password", do)
        case amqp.AccessRefused():
            found = _RESOURCE.search(str(cause.reply_text))
            what = f"the {found[1]} {found[2]}" if found else "what is needed"
            return ConnectionFailure(
                f"does not allow this user to use {what}", "give it rights: `rabbitmqctl set_permissions`"
            )
        case amqp.NotAllowed() if "not found" in str(cause.reply_text):
            do = f"correct the virtual host behind the host in {server.setting} (`/` is written //), or add it there"
            return ConnectionFailure("has no such virtual host", do)
        case amqp.NotAllowed():
            do = f"`rabbitmqctl set_permissions` there, or correct {server.setting}"
            return ConnectionFailure("does not let this user into the virtual host", do)
        case amqp.ConnectionForced():
            return ConnectionFailure(
                "closes its connections (CONNECTION_FORCED)", "it is stopping, or somebody closed them"
            )
    return None


def _network(cause: BaseException, server: Server) -> ConnectionFailure | None:
    match cause:
        case OSError(errno=socket.EAI_AGAIN):
            return ConnectionFailure(
                "could not be reached: the name server does not answer", "check DNS on this machine"
            )
        case OSError(errno=int(number)) if number < 0:  # socket.gaierror, and what asyncio makes of it
            return ConnectionFailure(
                "could not be reached: its host name is not known", f"correct the host in {server.setting}"
            )
        case TimeoutError() | redis.TimeoutError():
            return ConnectionFailure("did not answer in time", f"see {server.setting}", silent=True)
        case ConnectionRefusedError() | OSError(errno=errno.ECONNREFUSED):  # asyncio has a type of its own
            do = f"start it, or correct host and port in {server.setting}"
            return ConnectionFailure("could not be reached (Connection refused)", do)
        case OSError(errno=(errno.ENOENT | errno.EACCES) as number):
            do = f"start it, or correct the path of the socket or certificate in {server.setting}"
            return ConnectionFailure(f"could not be reached ({os.strerror(number)})", do)
        case ConnectionError() | OSError(errno=errno.EINVAL | None):
            return ConnectionFailure(
                "could not be reached: it closed the connection",
                f"its log says why; if it speaks TLS: {server.encrypted}",
            )
        case OSError(errno=int(number)):
            # asyncio and redis-py write sentences of their own where the system's words belong.
            return ConnectionFailure(
                f"could not be reached ({os.strerror(number)})", f"check network, firewall, {server.setting}"
            )
    return None


def _lost(cause: BaseException, server: Server) -> ConnectionFailure | None:
    """After all the others: a lost connection of which the client library says no more."""
    if isinstance(cause, redis.ConnectionError | amqp.RecoverableConnectionError):
        return ConnectionFailure(f"could not be reached ({type(cause).__name__})", f"see its log and {server.setting}")
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """*error* and what it was raised from, the outermost first."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__
