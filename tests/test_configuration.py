"""One file and the environment: what is wrong is named, where it stands is named, values are not."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenferry.configuration import Configuration, InvalidConfiguration, load

CANARY = "hunter2-canary"
CANARY_KEY = "hunter2CanaryKey"

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(environment: dict[str, str]) -> None:
    for name in ("TOKENFERRY_BROKER__URL", "TOKENFERRY_STORE__URL", "TOKENFERRY_DATA"):
        environment.pop(name, None)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def at(content: str) -> Path:
        path = tmp_path / "tokenferry.toml"
        path.write_text(content, encoding="utf-8")
        return path

    return at


def refused(path: Path | None) -> str:
    """Why it is refused. Nothing that was raised on the way shows a value."""
    with pytest.raises(InvalidConfiguration) as caught:
        load(path)
    told = str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    return told


def test_an_empty_file_is_the_embedded_default(write: Write) -> None:
    configuration = load(write(""))
    assert (configuration.broker.url, configuration.store.url) == ("embedded", "embedded")
    assert configuration.platforms == {}
    assert configuration.worker.attempts == 8


def test_without_any_file_the_defaults_hold(tmp_path: Path, in_folder: Callable[[Path], None]) -> None:
    in_folder(tmp_path)
    configuration = load()
    assert configuration.broker.url == "embedded"
    assert configuration.path(Path("keys")) == tmp_path.resolve() / "keys"


def test_the_file_of_the_working_folder_is_found_by_itself(write: Write, in_folder: Callable[[Path], None]) -> None:
    in_folder(write("[worker]\nattempts = 3\n").parent)
    assert load().worker.attempts == 3


def test_relative_paths_count_from_the_folder_of_the_file(
    write: Write, tmp_path: Path, in_folder: Callable[[Path], None]
) -> None:
    path = write('data = "state"\n[keys]\nrecipient = "../r.pem"\n')
    (tmp_path / "elsewhere").mkdir()
    in_folder(tmp_path / "elsewhere")
    configuration = load(path)
    assert configuration.path(configuration.data) == tmp_path.resolve() / "state"
    assert configuration.path(configuration.keys.recipient) == tmp_path.resolve().parent / "r.pem"
    assert configuration.path(Path("/etc/keys")) == Path("/etc/keys")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("attemps = 3", ["attemps: unknown setting"]),
        ("[worker]\nattemps = 3", ["[worker] attemps: unknown setting"]),
        ("[platforms.main]\nsecret_key = { environment = 'X' }", ["secret_key", "environment: unknown setting"]),
        ("[brokr]\nurl = 'embedded'", ["brokr: unknown setting"]),
        (f"[worker]\nattempts = '{CANARY}'", ["[worker] attempts", "must be a whole number"]),
        ("[worker]\nattempts = 0", ["[worker] attempts", "must be at least 1"]),
        ("[worker]\nread_timeout = -1.0", ["[worker] read_timeout", "must be more than 0"]),
        (f"broker = '{CANARY}'", ["broker: "]),
        ("[broker]\nprefix = '4242424242424242'", ["[broker] prefix", "must contain letters"]),
        ("[broker]\nprefix = '{shop'", ["[broker] prefix", "a name in braces, as in {ferry}"]),
        ("[store]\nprefix = 'Shop'", ["[store] prefix", "a name in braces, as in {ferry}"]),
        ("[broker]\nprefix = 'tokenferry'", ["[broker] prefix is the same as [store] prefix; write another one"]),
        (f"[broker]\nurl = ['redis://:{CANARY}@host']", ["[broker] url", "must be text"]),
        (f"[broker]\nurl = 'redis://:{CANARY}@host'\nlease_seconds = 0", ["[broker] lease_seconds"]),
        (f"[platforms.main]\nmode = '{CANARY}'", ["[platforms.main] mode", "'test' or 'live'"]),
        (f"[platforms.main]\nsecret_key = '{CANARY}'", ["[platforms.main] secret_key"]),
        ("[platforms.main]\nsecret_key = {}", ["[platforms.main] secret_key", 'write { env = "NAME" }']),
        ("[platforms.main]\nsecret_key = { env = 'A', file = 'b' }", ['write { env = "NAME" } or { file = "PATH" }']),
        ("[platforms.MAIN]\nmode = 'test'", ["platforms"]),
        ("[platforms.4242424242424242]\nmode = 'test'", ["platforms", "could be a card number"]),
        ("[platforms.main.limits]\nburst = 0\nglobal_per_second = 0", ["burst", "global_per_second"]),
        ("[store]\nprefix = 'No Spaces'", ["[store] prefix"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_section_and_a_cure(write: Write, content: str, words: list[str]) -> None:
    path = write(content)
    told = refused(path)
    assert str(path) in told
    for word in words:
        assert word in told


def test_every_wrong_setting_is_named_at_once(write: Write) -> None:
    told = refused(write("[worker]\nattempts = 0\ndeliveries = 0\nnonsense = 1"))
    assert all(word in told for word in ("attempts", "deliveries", "nonsense: unknown setting"))


@pytest.mark.parametrize(
    "content", [f"url = redis://:{CANARY}@host", f"[broker\nurl = '{CANARY}'", f"[broker]\nurl = '{CANARY}", "= 1"]
)
def test_what_is_not_toml_is_said_with_the_line_and_not_quoted(write: Write, content: str) -> None:
    told = refused(write(content))
    assert "is not TOML" in told
    assert "line" in told or "end of document" in told


def test_what_is_not_even_text_is_said(tmp_path: Path) -> None:
    path = tmp_path / "tokenferry.toml"
    path.write_bytes(b"\xff\xfe" + CANARY.encode())
    assert "it is not UTF-8" in refused(path)


def test_a_missing_file_that_was_named_is_an_error(tmp_path: Path) -> None:
    assert "absent.toml: cannot be read (No such file or directory)" in refused(tmp_path / "absent.toml")


def test_a_folder_in_the_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path)


def test_the_environment_overrides_the_file(write: Write, environment: dict[str, str]) -> None:
    path = write("[broker]\nurl = 'embedded'\npublish_timeout = 3.0\n[worker]\nattempts = 3")
    environment["TOKENFERRY_BROKER__URL"] = f"redis://:{CANARY}@broker:6379/0"
    environment["TOKENFERRY_WORKER__ATTEMPTS"] = "5"
    environment["TOKENFERRY_WORKER__DELIVERIES"] = ""
    configuration = load(path)
    assert configuration.broker.url == f"redis://:{CANARY}@broker:6379/0"
    assert configuration.broker.publish_timeout == 3.0
    assert (configuration.worker.attempts, configuration.worker.deliveries) == (5, 10)


def test_the_environment_can_name_the_keys_place_of_a_platform(write: Write, environment: dict[str, str]) -> None:
    environment["TOKENFERRY_PLATFORMS__MAIN__BASE_URL"] = "http://127.0.0.1:1"
    configuration = load(write("[platforms.main]\nsecret_key = { env = 'KEY' }"))
    assert configuration.platforms["main"].base_url == "http://127.0.0.1:1"
    assert configuration.platforms["main"].secret_key is not None


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("TOKENFERRY_WORKER__ATTEMPTS", CANARY, "[worker] attempts"),
        ("TOKENFERRY_BROKER__URLL", f"redis://:{CANARY}@host", "urll: unknown setting"),
        ("TOKENFERRY_BROKER", f"redis://:{CANARY}@host", "is not JSON"),
    ],
)
def test_a_wrong_variable_of_the_environment_is_refused_as_silently(
    write: Write, environment: dict[str, str], name: str, value: str, word: str
) -> None:
    environment[name] = value
    told = refused(write(""))
    assert word in told
    assert name.removesuffix("L") in told or "TOKENFERRY_ variable" in told


@pytest.mark.parametrize(
    "written",
    [
        f"'sk_test_{CANARY_KEY}'",
        f"{{ env = 'sk_live_{CANARY_KEY}' }}",
        f"{{ file = '/run/rk_live_{CANARY_KEY}' }}",
    ],
)
def test_a_key_pasted_where_its_name_belongs_is_refused_and_not_repeated(write: Write, written: str) -> None:
    told = refused(write(f"[platforms.main]\nsecret_key = {written}\n"))
    assert "[platforms.main] secret_key" in told
    assert '{ env = "NAME" }' in told
    assert CANARY_KEY not in told


def test_a_variable_with_one_underscore_too_few_is_not_passed_over(write: Write, environment: dict[str, str]) -> None:
    environment["TOKENFERRY_WORKER_PORT"] = "tcp://10.0.0.1:80"  # as Kubernetes adds for a service of our name
    assert load(write("")).broker.url == "embedded"
    environment["TOKENFERRY_BROKER_URL"] = f"redis://:{CANARY}@host"
    assert "write TOKENFERRY_BROKER__URL (two underscores)" in refused(write(""))


def test_without_a_platform_it_says_what_to_write_and_where(write: Write, in_folder: Callable[[Path], None]) -> None:
    path = write("")
    with pytest.raises(InvalidConfiguration, match=rf"add \[platforms.NAME\] .* to {path}"):
        load(path).meant(None)
    path.unlink()
    in_folder(path.parent)
    with pytest.raises(InvalidConfiguration, match=r"has none\), or name the file with --config"):
        load().meant(None)


def test_the_only_platform_needs_no_name_and_one_of_several_does(write: Write) -> None:
    assert load(write("[platforms.main]")).meant(None) == "main"
    several = load(write("[platforms.main]\n[platforms.other]"))
    assert several.meant("other") == "other"
    with pytest.raises(InvalidConfiguration, match="name the --platform; configured: main, other"):
        several.meant(None)


def test_an_unknown_platform_is_answered_with_the_known_ones(write: Write) -> None:
    configuration = load(write("[platforms.main]\n[platforms.other]\nmode = 'live'\n"))
    assert configuration.platform("other").live
    with pytest.raises(InvalidConfiguration, match=r"'third' is not configured \(there is: main, other\)"):
        configuration.platform("third")
    with pytest.raises(InvalidConfiguration, match="there is: none"):
        Configuration().platform("main")


def test_limits_not_set_are_the_documented_ones_of_the_mode(write: Write) -> None:
    configuration = load(
        write("[platforms.t]\n[platforms.l]\nmode = 'live'\n[platforms.o.limits]\nendpoint_per_second = 7")
    )
    rates = {
        name: (each.global_per_second, each.endpoint_per_second("tokens"), each.account_creation_per_second)
        for name, each in configuration.platforms.items()
    }
    assert rates == {"t": (25, 25, 5), "l": (100, 25, 30), "o": (25, 7, 5)}


@pytest.mark.parametrize("section", ["broker", "store"])
@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"redis://:{CANARY}@host:notaport/0", "the port is no number"),
        (f"redis://:{CANARY}@h:99999/0", "the port is no number"),
        (f"redis://:{CANARY}@h:0/0", "the port is no number"),
        (f"redis://:a/{CANARY}@h:6379/0", "percent-encoding"),
        (f"redis://:{CANARY}@[::1", "brackets do not match"),
        (f"redis://:{CANARY}@", "names no host; write redis://HOST"),
        ("redis:///0", "names no host"),
        (f"redis://:{CANARY}@host/notadb", "number of a database"),
        (f"redis://:{CANARY}@host/0?db=3", "write the database behind the host, as in /0"),
        (f"unix://:{CANARY}@/run/s?db=x", "number of a database"),
        (f"redis://{CANARY}:1234#ss@127.0.0.1:13001/0", "has a # in it; in a user name or password write"),
        ("redis://host/0#prod", "has a # in it"),
        (f"rediss://:{CANARY}@x@host/0", "has more than one @ in it; in a user name or password write"),
        (f"redis://:a?{CANARY}@host/0", "has a / or ? before its @; in a user name or password write"),
        (f"redis://:{CANARY}%off@host/0", "has a % that begins no code such as %2F"),
        (f"redis://:{CANARY}[@host/0", "in a password write [ as %5B"),
        (f"redis://:{CANARY}@host /0", "has a space or a line break in it"),
        (f"redis://:{CANARY}@one,two:6379/0", "name one server"),
        (f"redis://:{CANARY}@host;redis://other", "name one server"),
        (f"redis://:{CANARY}@host/0?socket_timeout=5", "the parameter socket_timeout behind the ?"),
        (f"redis://:{CANARY}@host/0?ssl_cert_reqs=none", "the parameter ssl_cert_reqs behind the ?"),
        (f"redis://host/0?password={CANARY}", "write the password before the host"),
        (f"redis://host/0?{CANARY}", "has a parameter behind the ?"),
        (f"redis://host/0?{CANARY}=", "has a parameter behind the ?"),
        ("rediss://host/0?ssl_cert_reqs=CERT_NONE", "ssl_cert_reqs is required, optional or none"),
        ("rediss://host/0?ssl_check_hostname=false", "the parameter ssl_check_hostname behind the ?"),
        ("rediss://host/0?ssl_ca_certs=a&ssl_ca_certs=b", "the parameter ssl_ca_certs is there twice"),
        ("rediss://host/0?ssl_ca_certs=", "the parameter ssl_ca_certs has no value"),
        (f"sentinel://:{CANARY}@one/0", "add ?master=NAME"),
        (f"sentinel://:{CANARY}@one:99999/0?master=m", "the port is no number"),
        ("unix://", "write unix:///path/to/the.sock"),
        ("embeddedd", "is not an address; write embedded or redis://"),
        ("", "is empty; write embedded or redis://"),
        (f"http://{CANARY}@host", "begins with 'http://'; write embedded or redis://"),
        (f"{CANARY}://host", "begins with something else"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused_when_it_is_read(
    write: Write, section: str, url: str, says: str
) -> None:
    told = refused(write(f"[{section}]\nurl = '{url}'"))
    assert f"[{section}] url: " in told
    assert says in told


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"amqp://guest:{CANARY}#x@host//", "has a # in it"),
        (f"amqp://guest:{CANARY}/x@host//", "has a / or ? before its @"),
        (f"amqp://guest:{CANARY}@x@host//", "has more than one @"),
        (f"amqp://guest:{CANARY}@host/vhost?heartbeat=5", "the parameter heartbeat behind the ?"),
        (f"amqps://guest:{CANARY}@host//?verify=verify_none", "the parameter verify behind the ?"),
        (f"amqp://guest:{CANARY}@one;amqp://two", "name one server"),
    ],
)
def test_an_address_of_rabbitmq_is_checked_as_strictly(write: Write, url: str, says: str) -> None:
    assert says in refused(write(f"[broker]\nurl = '{url}'"))


def test_a_wrong_port_of_rabbitmq_is_refused_and_rabbitmq_is_no_store(write: Write) -> None:
    assert "[broker] url: the port is no number" in refused(write(f"[broker]\nurl = 'amqp://guest:{CANARY}@h:x'"))
    assert "[store] url: begins with 'amqp://'; write embedded" in refused(write("[store]\nurl = 'amqp://h'"))


@pytest.mark.parametrize(
    "url",
    [
        "embedded",
        "redis://localhost",
        "redis://[::1]:6379/15",
        "rediss://host:6379/15?ssl_cert_reqs=none",
        f"rediss://user:{CANARY}%2F@host:6380/0",
        "unix:///run/valkey.sock?db=3",
        f"unix://:{CANARY}@/run/valkey.sock",
        "sentinel://one:26379,two/0?master=m",
        "sentinels://one:26379,two/0?master=m",
        "amqp://guest:guest@localhost:5672//",
        "amqps://host/vhost",
    ],
)
def test_an_address_is_kept_as_it_was_written(write: Write, url: str) -> None:
    assert load(write(f"[broker]\nurl = '{url}'")).broker.url == url


# -- the endpoint's address


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://api.stripe.com/v1", "ends in /v1, which every call adds by itself; leave /v1 out"),
        ("https://api.stripe.com/v1/", "leave /v1 out"),
        ("https://api.stripe.com/V1//", "leave /V1 out"),
        ("http://127.0.0.1:12111/stripe/v1", "leave /v1 out"),
        ("https://api.stripe.com/v1/tokens", "leave /v1/tokens out"),
        (f"https://user:{CANARY}@api.stripe.com", "leave them out: the key goes to secret_key"),
        (f"https://{CANARY}@api.stripe.com", "leave them out: the key goes to secret_key"),
        (f"https://user:{CANARY}/@api.stripe.com", "look at its brackets and its port"),
        (f"https://api.stripe.com?key={CANARY}", "leave out everything from there on"),
        (f"https://api.stripe.com/#{CANARY}", "leave out everything from there on"),
        ("https://api.stripe.com?", "leave out everything from there on"),
        ("https://api.stripe.com:port", "look at its brackets and its port"),
        ("https://api.stripe.com:0", "names no host, or port 0"),
        ("https://:443", "names no host, or port 0"),
        ("https://[::1", "look at its brackets and its port"),
        ("https://api.stripe.com ", "has a space or a line break"),
        ("https://", "must begin with https:// and a host"),
        ("https:///v1", "must begin with https:// and a host"),
        ("api.stripe.com", "must begin with https:// and a host"),
        ("", "must begin with https:// and a host"),
        ("ftp://api.stripe.com", "must begin with https:// and a host"),
        ("http://stripe.example.com", "plain http to another machine"),
        ("http://127.0.0.1.example.com", "plain http to another machine"),
    ],
)
def test_a_base_url_that_cannot_be_meant_is_refused_with_what_to_write_and_never_quoted(
    write: Write, url: str, reason: str
) -> None:
    told = refused(write(f'[platforms.main]\nbase_url = "{url}"\n'))
    assert "[platforms.main] base_url: " in told
    assert reason in told


def test_live_keys_never_go_over_plain_http(write: Write) -> None:
    told = refused(write('[platforms.main]\nmode = "live"\nbase_url = "http://127.0.0.1:8080"\n'))
    assert "plain http with live keys; write https://" in told


def test_a_base_url_from_the_environment_is_refused_as_one_of_the_file_is(
    write: Write, environment: dict[str, str]
) -> None:
    environment["TOKENFERRY_PLATFORMS__MAIN__BASE_URL"] = "https://api.stripe.com/v1"
    told = refused(write("[platforms.main]\n"))
    assert told.startswith("environment, TOKENFERRY_PLATFORMS__MAIN__BASE_URL: [platforms.main] base_url: ends in /v1")


@pytest.mark.parametrize(
    "url",
    [
        "https://api.stripe.com",
        "https://api.stripe.com/",
        "https://proxy.example.com:8443/stripe",
        "https://proxy.example.com/v1beta",
        "https://proxy.example.com/v1/stripe",
        "http://127.0.0.1:12111/stripe",
        "http://localhost:12111",
        "http://[::1]:12111",
    ],
)
def test_an_emulator_or_a_proxy_with_a_prefix_is_an_endpoint(write: Write, url: str) -> None:
    assert load(write(f'[platforms.main]\nbase_url = "{url}"\n')).platforms["main"].base_url == url
