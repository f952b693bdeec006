"""From a row to an order: names, types, kinds and targets."""

from __future__ import annotations

import io
from typing import Any

import pytest

from tokenferry.contract.requests import AccountRequest, CardRequest, InvalidRequest
from tokenferry.contract.targets import AccountCreate, Charge, CustomerCreate
from tokenferry.inputs.columns import field_of, known_names
from tokenferry.inputs.csv_rows import CsvRows
from tokenferry.inputs.lines import Lines
from tokenferry.inputs.mapping import ColumnMap
from tokenferry.inputs.orders import RowDefaults, order_from
from tokenferry.inputs.rows import Row
from tokenferry.producer import Order

DEFAULTS = RowDefaults(frozenset({"main"}), reply_to="import-1")
CARD = {"number": "4242424242424242", "exp_month": "12", "exp_year": "2034"}


def from_cells(defaults: RowDefaults = DEFAULTS, /, **cells: str) -> Order:
    """The order of a one-row CSV file; `__` in a name stands for a dot."""
    names = [name.replace("__", ".") for name in cells]
    content = ",".join(names) + "\n" + ",".join(cells.values()) + "\n"
    (row,) = CsvRows(Lines(io.BytesIO(content.encode())), ColumnMap())
    assert isinstance(row, Row)
    return order_from(row, defaults)


def from_json(defaults: RowDefaults = DEFAULTS, /, **values: Any) -> Order:
    return order_from(Row(1, "a", values), defaults)


def problems(make: Any, *args: Any, **values: Any) -> list[str]:
    with pytest.raises(InvalidRequest) as refused:
        make(*args, **values)
    assert "4242" not in str(refused.value)
    return [str(problem) for problem in refused.value.problems]


def test_fields_stand_under_their_name_or_under_the_name_of_their_kind() -> None:
    plain = from_cells(kind="card", **CARD)
    prefixed = from_cells(kind="card", **{f"card__{name}": value for name, value in CARD.items()})

    assert isinstance(plain.request, CardRequest)
    assert plain.request == prefixed.request
    assert plain.reply_to == "import-1"
    assert plain.attach is None


def test_cells_become_what_the_field_wants() -> None:
    order = from_cells(
        kind="account",
        business_type="individual",
        tos_shown_and_accepted="TRUE",
        individual__dob__day="1",
        individual__dob__month="1",
        individual__dob__year="1901",
        individual__full_name_aliases__0="Zed",
        individual__full_name_aliases__1="Zee",
        individual__metadata__order="7",
        individual__relationship__percent_ownership="12.5",
        attach__to="account_create",
        attach__country="US",
        attach__capabilities__transfers__requested="true",
    )

    assert isinstance(order.request, AccountRequest)
    individual = order.request.individual
    assert individual is not None
    assert individual.relationship is not None
    assert individual.full_name_aliases == ("Zed", "Zee")
    assert individual.metadata == {"order": "7"}
    assert individual.relationship.percent_ownership == 12.5
    assert order.request.tos_shown_and_accepted is True
    assert isinstance(order.attach, AccountCreate)
    assert order.attach.capabilities is not None


def test_an_attach_target_is_read_from_its_columns() -> None:
    customer = from_cells(kind="card", **CARD, attach__to="customer_create", attach__email="z@example.com").attach
    charge = from_cells(kind="card", **CARD, attach__to="charge", attach__amount="100", attach__currency="usd").attach

    assert isinstance(customer, CustomerCreate)
    assert customer.email == "z@example.com"
    assert isinstance(charge, Charge)
    assert charge.amount == 100


def test_json_may_be_nested_flat_or_dotted() -> None:
    nested = from_json(kind="card", card=CARD, attach={"to": "customer_create", "email": "z@example.com"})
    flat = from_json(kind="card", **CARD, attach={"to": "customer_create", "email": "z@example.com"})
    dotted = from_json(
        kind="card",
        **{f"card.{name}": value for name, value in CARD.items()},
        **{"attach.to": "customer_create", "attach.email": "z@example.com"},
    )

    assert nested.request == flat.request == dotted.request
    assert nested.attach == flat.attach == dotted.attach


def test_digits_as_names_stay_names_where_names_are_free() -> None:
    order = from_json(kind="account", individual={"first_name": "Z", "metadata": {"1": "one"}})
    assert isinstance(order.request, AccountRequest)
    assert order.request.individual is not None
    assert order.request.individual.metadata == {"1": "one"}


def test_defaults_apply_to_rows_that_do_not_say_themselves() -> None:
    defaults = RowDefaults(
        frozenset({"main", "other"}), kind="card", platform="main", connected_account="acct_1", lane="realtime"
    )
    one, two = from_cells(defaults, **CARD), from_cells(defaults, platform="other", lane="bulk", **CARD)

    assert (one.platform, one.connected_account, one.lane) == ("main", "acct_1", "realtime")
    assert (two.platform, two.connected_account, two.lane) == ("other", "acct_1", "bulk")


@pytest.mark.parametrize(
    ("cells", "field"),
    [
        ({**CARD}, "kind"),
        ({"kind": "4242424242424242", **CARD}, "kind"),
        ({"kind": "pii", "number": "4242424242424242", "id_number": "1"}, "pii.number"),
        ({"kind": "pii", "card__number": "4242424242424242", "id_number": "1"}, "card.number"),
        ({"kind": "card", **CARD, "card__number": "4242424242424242"}, "number"),
        ({"kind": "card", **CARD, "platform": "4242424242424242"}, "platform"),
        ({"kind": "card", **CARD, "lane": "4242424242424242"}, "lane"),
        ({"kind": "card", **CARD, "connected_account": "4242424242424242"}, "connected_account"),
        ({"kind": "card", **CARD, "attach__email": "4242424242424242"}, "attach"),
        ({"kind": "card", **CARD, "attach__to": "4242424242424242"}, "attach.to"),
        (
            {"kind": "card", **CARD, "attach__to": "charge", "attach__amount": "4242x", "attach__currency": "usd"},
            "attach.amount",
        ),
        ({"kind": "pii", "id_number": "1", "attach__to": "customer_create"}, "attach"),
        ({"kind": "account", "individual__dob__day": "first"}, "account.individual.dob.day"),
    ],
)
def test_what_is_wrong_is_said_by_field_and_never_by_value(cells: dict[str, str], field: str) -> None:
    found = problems(from_cells, DEFAULTS, **cells)
    assert any(problem.startswith(f"{field}:") for problem in found), found


def test_everything_wrong_with_a_row_is_said_at_once() -> None:
    found = problems(from_cells, DEFAULTS, kind="card", number="x", lane="fast", attach__to="nowhere")
    assert {problem.partition(":")[0] for problem in found} >= {"lane", "attach.to", "card.number"}


@pytest.mark.parametrize("attach", [7, "customer_create", []])
def test_an_attach_that_is_no_object_is_refused(attach: Any) -> None:
    assert problems(from_json, kind="card", **CARD, attach=attach) == ["attach: must be an object"]


def test_a_name_that_is_a_value_and_a_group_is_refused() -> None:
    assert problems(from_json, kind="account", **{"individual": "Z", "individual.dob": {}}) == [
        "individual.dob: is given twice"
    ]


def test_every_name_that_is_listed_is_known() -> None:
    assert len(known_names()) > 300
    assert all(field_of(name.replace("KEY", "anything")) for name in known_names())
