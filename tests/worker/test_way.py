"""The way to Stripe: through the proxy that is meant and no other, and with the authority that is meant."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from broker.authority import HERE, Authority
from cryptography import x509
from proxying import endpoint, proxy

from tokenferry.configuration import Configuration, InvalidConfiguration, effective, load
from tokenferry_worker import wiring
from tokenferry_worker.commands.worker import check_keys
from tokenferry_worker.doctor import endpoint as doctor
from tokenferry_worker.errors import Unavailable
from tokenferry_worker.provider.way import way_to

pytestmark = pytest.mark.anyio

CANARY = "canary0000000000"
STRIPE = "stripe.example:443"
"""A host that no name server knows: only a proxy leads there."""

Configure = Callable[..., Configuration]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def configure(tmp_path: Path, environment: dict[str, str], authority: Authority) -> Configure:
    environment["KEY"] = f"sk_test_{CANARY}"

    def with_(
        proxy: str | None = None, *, base_url: str = "https://stripe.example", ca: bool = True, **variables: str
    ) -> Configuration:
        environment.update(variables)
        lines = [f'proxy = "{proxy}"'] if proxy else []
        lines += [f'ca_file = "{authority.file}"'] if ca else []
        path = tmp_path / "tokenferry.toml"
        platform = f'[platforms.main]\nbase_url = "{base_url}"\nsecret_key = {{ env = "KEY" }}\n'
        path.write_text("\n".join(["[worker]", *lines, platform]))
        return load(path)

    return with_


async def greet(configuration: Configuration) -> int:
    """The status with which the endpoint answers a worker."""
    async with AsyncExitStack() as stack:
        client: Any = wiring.open_platforms(stack, configuration)["main"].client
        return int((await client.greet()).status)


def shown_by(authority: Authority) -> Any:
    return authority.context(x509.DNSName("stripe.example"))


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "[worker] proxy"])
async def test_calls_go_through_the_proxy_that_is_named(
    configure: Configure, authority: Authority, variable: str
) -> None:
    async with endpoint(shown_by(authority)) as port, proxy({STRIPE: port}) as there:
        url = f"http://127.0.0.1:{there.port}"
        named = {"proxy": url} if variable == "[worker] proxy" else {variable: url}
        assert await greet(configure(**named)) == 404
        assert there.asked_for == [f"CONNECT {STRIPE}"]


async def test_the_setting_goes_before_the_environment(configure: Configure, authority: Authority) -> None:
    async with endpoint(shown_by(authority)) as port, proxy({STRIPE: port}) as meant, proxy({}) as other:
        configuration = configure(f"http://127.0.0.1:{meant.port}", HTTPS_PROXY=f"http://127.0.0.1:{other.port}")
        assert await greet(configuration) == 404
        assert other.asked_for == []


@pytest.mark.parametrize(
    ("base_url", "no_proxy"),
    [
        ("https://stripe.example", "stripe.example"),
        ("https://api.stripe.example:8443", "other.example, .stripe.example"),
        ("https://stripe.example:8443", "stripe.example:8443"),
        ("https://stripe.example", "*"),
        ("https://[2001:db8::7]:8443", "2001:db8::7"),
        ("https://[2001:db8::7]:8443", "[2001:db8::7]"),
    ],
)
def test_no_proxy_is_used_for_a_host_that_is_excepted(configure: Configure, base_url: str, no_proxy: str) -> None:
    configuration = configure(base_url=base_url, HTTPS_PROXY="http://proxy.example:3128", NO_PROXY=no_proxy)
    way = way_to(configuration, configuration.platforms["main"])
    assert (way.proxy, way.says) == (None, "none (NO_PROXY)")


@pytest.mark.parametrize("no_proxy", ["", "tripe.example", "other.example", "stripe.example:8443", "2001:db8::7"])
def test_another_host_that_is_excepted_changes_nothing(configure: Configure, no_proxy: str) -> None:
    configuration = configure(HTTPS_PROXY="http://proxy.example:3128", NO_PROXY=no_proxy)
    assert way_to(configuration, configuration.platforms["main"]).says == "http://proxy.example:3128 (HTTPS_PROXY)"


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:12111", "http://[::1]:12111", "https://localhost:12111"])
def test_an_emulator_on_this_machine_is_called_directly(configure: Configure, base_url: str) -> None:
    configuration = configure(base_url=base_url, HTTPS_PROXY="http://proxy.example:3128", HTTP_PROXY="http://p:1")
    assert way_to(configuration, configuration.platforms["main"]).proxy is None


async def test_a_setting_can_say_that_there_is_no_proxy(configure: Configure, authority: Authority) -> None:
    async with endpoint(authority.context(*HERE)) as port:
        configuration = configure("none", base_url=f"https://localhost:{port}", HTTPS_PROXY="http://proxy.example:1")
        assert await greet(configuration) == 404
    assert way_to(configuration, configuration.platforms["main"]).says == "none ([worker] proxy)"


async def test_user_and_password_reach_the_proxy_and_nothing_that_is_printed(
    configure: Configure, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = f"{CANARY}/#"
    async with (
        endpoint(shown_by(authority)) as port,
        proxy({STRIPE: port}, credentials=f"ada:{secret}") as there,
    ):
        configuration = configure(f"http://ada:{CANARY}%2F%23@127.0.0.1:{there.port}")
        assert await greet(configuration) == 404
        await check_keys(configuration)
        checks = await doctor.examine(configuration, "main", configuration.platforms["main"], "all")
        here = f"http://127.0.0.1:{there.port}"
    assert f"platform 'main': Stripe is reached through the proxy {here} ([worker] proxy)" in caplog.text
    assert [check.says for check in checks if check.name == "endpoint proxy"] == [f"{here} ([worker] proxy)"]
    way = way_to(configuration, configuration.platforms["main"])
    for printed in (caplog.text, str(checks), repr(way), repr(effective(configuration))):
        assert CANARY not in printed


@pytest.mark.parametrize(
    ("refusal", "says", "do"),
    [
        ({"credentials": "ada:other"}, "the proxy refuses user or password (407)", "[worker] proxy or HTTPS_PROXY"),
        ({"refuses": 403}, "the proxy opens no way there (403)", "let the proxy allow CONNECT"),
        ({"refuses": 502}, "the proxy opens no way there (502)", "let the proxy allow CONNECT"),
    ],
)
async def test_a_proxy_that_refuses_is_named_and_nothing_was_done_at_stripe(
    configure: Configure, refusal: dict[str, Any], says: str, do: str
) -> None:
    async with proxy({}, **refusal) as there:
        configuration = configure(f"http://ada:{CANARY}@127.0.0.1:{there.port}")
        with pytest.raises(Unavailable) as caught:
            await greet(configuration)
        assert not caught.value.maybe_done
        (failed,) = await failures(configuration)
        assert says in failed.says
        assert do in (failed.do or "")
        assert CANARY not in f"{failed.says} {failed.do}"


async def failures(configuration: Configuration) -> list[Any]:
    checks = await doctor.examine(configuration, "main", configuration.platforms["main"], "all")
    return [check for check in checks if check.state == "failed"]


async def test_a_call_that_a_proxy_refuses_had_no_effect(configure: Configure) -> None:
    async with AsyncExitStack() as stack:
        there = await stack.enter_async_context(proxy({}, refuses=503))
        configuration = configure(f"http://127.0.0.1:{there.port}")
        client: Any = wiring.open_platforms(stack, configuration)["main"].client
        with pytest.raises(Unavailable) as caught:
            await client.post("/v1/customers", "source=tok_1", idempotency_key="k")
        assert not caught.value.maybe_done


async def test_a_proxy_that_is_away_is_named(configure: Configure) -> None:
    (failed,) = await failures(configure("http://127.0.0.1:1"))
    assert "the proxy does not answer" in failed.says
    assert "[worker] proxy or HTTPS_PROXY" in (failed.do or "")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("socks5://proxy.example:1080", "write http://HOST:PORT"),
        ("proxy.example:3128", "write http://HOST:PORT"),
        (f"http://ada:{CANARY}#x@proxy.example:3128", "has a # in it"),
        (f"http://ada:{CANARY}@proxy.example:port", "look at its brackets and its port"),
        (f"http://ada:{CANARY}@:3128", "names no host"),
        ("http://proxy.example:3128/path", "has something behind the port"),
    ],
)
@pytest.mark.parametrize("variable", ["[worker] proxy", "HTTPS_PROXY"])
def test_what_is_no_proxy_is_refused_without_repeating_it(
    configure: Configure, variable: str, url: str, says: str
) -> None:
    if variable == "HTTPS_PROXY" and url == "proxy.example:3128":
        return  # curl takes it, and so is it meant

    def read() -> None:
        configuration = configure(url) if variable == "[worker] proxy" else configure(HTTPS_PROXY=url)
        way_to(configuration, configuration.platforms["main"])

    with pytest.raises(InvalidConfiguration) as caught:
        read()
    assert says in str(caught.value)
    assert variable.removeprefix("[worker] ") in str(caught.value)
    assert CANARY not in str(caught.value)


def test_a_variable_without_a_scheme_is_read_as_curl_reads_it(configure: Configure) -> None:
    configuration = configure(HTTPS_PROXY="proxy.example:3128")
    assert way_to(configuration, configuration.platforms["main"]).proxy == "http://proxy.example:3128"


class TestAuthority:
    """Whose certificates are trusted for Stripe."""

    @pytest.mark.parametrize("named_by", ["[worker] ca_file", "SSL_CERT_FILE"])
    async def test_an_authority_of_ones_own_is_trusted_and_named(
        self, configure: Configure, authority: Authority, named_by: str
    ) -> None:
        own = named_by == "[worker] ca_file"
        variables = {} if own else {"SSL_CERT_FILE": str(authority.file)}
        async with endpoint(authority.context(*HERE)) as port:
            configuration = configure(base_url=f"https://localhost:{port}", ca=own, **variables)
            assert await greet(configuration) == 404
            checks = await doctor.examine(configuration, "main", configuration.platforms["main"], "all")
        says = {check.name: check.says for check in checks}
        assert says["endpoint authority"] == f"only authorities of {named_by} are trusted"

    async def test_without_it_the_certificate_is_refused_with_the_cure(
        self, configure: Configure, authority: Authority
    ) -> None:
        async with endpoint(authority.context(*HERE)) as port:
            (failed,) = await failures(configure(base_url=f"https://localhost:{port}", ca=False))
        assert "which this machine does not trust" in failed.says
        assert "[worker] ca_file" in (failed.do or "")

    async def test_the_certificate_of_another_authority_is_refused(self, configure: Configure, tmp_path: Path) -> None:
        async with endpoint(Authority(tmp_path).context(*HERE)) as port:
            (failed,) = await failures(configure(base_url=f"https://localhost:{port}"))
        assert "which this machine does not trust" in failed.says

    @pytest.mark.parametrize("content", [None, "no certificate"])
    def test_a_file_that_cannot_be_meant_is_refused_before_any_call(
        self, configure: Configure, tmp_path: Path, content: str | None
    ) -> None:
        file = tmp_path / "other.pem"
        if content is not None:
            file.write_text(content)
        configuration = configure(ca=False, SSL_CERT_FILE=str(file))
        with pytest.raises(InvalidConfiguration, match=f"SSL_CERT_FILE: {file}"):
            way_to(configuration, configuration.platforms["main"])
        configuration = configure(ca=False, TOKENFERRY_WORKER__CA_FILE=str(file))
        with pytest.raises(InvalidConfiguration, match=rf"\[worker\] ca_file: {file}"):
            way_to(configuration, configuration.platforms["main"])


async def test_an_endpoint_is_found_by_its_ipv6_address(configure: Configure, authority: Authority) -> None:
    async with endpoint(None, host="::1") as port:
        assert await greet(configure(base_url=f"http://[::1]:{port}")) == 404


async def test_a_proxy_is_found_by_its_ipv6_address_and_leads_to_one(
    configure: Configure, authority: Authority
) -> None:
    address = x509.IPAddress(ipaddress.ip_address("2001:db8::7"))
    async with (
        endpoint(authority.context(address)) as port,
        proxy({"[2001:db8::7]:8443": port}, host="::1") as there,
    ):
        configuration = configure(f"http://[::1]:{there.port}", base_url="https://[2001:db8::7]:8443")
        assert await greet(configuration) == 404
