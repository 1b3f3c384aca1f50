"""Dunning against the stand-in and both stores: reminded once each, suspended, served again."""

import secrets
from dataclasses import dataclass

import pytest
from sqlalchemy import Engine

from billing.collecting import Collector
from billing.dunning import Schedule
from billing.dunning_run import Dunning, schedule_of
from billing.settings import BillingSettings
from billing.stripe_gateway import StripeGateway
from infra.api_keys import KeyTerms
from infra.store.api_keys import (
    CREATION_ENTROPY_BYTES,
    create_key,
    list_tenant_access,
    resume_tenant,
    suspend_tenant,
)
from tests.support.forked_runs import LaterClock
from tests.support.one_invoice import sent
from tests.support.servers.stripe_fake import StandIn
from tests.support.webhook_house import Issued, issued, row_of, standing_of

DAY_S = 86_400
SCHEDULE: Schedule = schedule_of(BillingSettings())


class CrashError(BaseException):
    """Ends a life in the middle; not an `Exception`, so that nothing of ours catches it."""


@dataclass
class House:
    """One store, one stand-in, and a clock that a test moves for both."""

    store: Engine
    stripe: StandIn
    gateway: StripeGateway
    clock: LaterClock

    def pass_days(self, days: int) -> None:
        self.clock.later_s += days * DAY_S
        self.stripe.advance(days * DAY_S)

    def dunning(self) -> Dunning:
        return Dunning(self.store, self.gateway, self.clock, SCHEDULE)

    def failing(self) -> Issued:
        one = issued(self.store, self.gateway)
        give_key(self.store, one.tenant)
        self.stripe.fail_payment(one.stripe_id)
        Collector(self.store, self.gateway, self.clock).take(one.stripe_id)
        return one

    def is_served(self, tenant: str) -> bool:
        (access,) = [one for one in list_tenant_access(self.store) if one.tenant == tenant]
        return access.suspended_at_ms is None

    def pay(self, one: Issued) -> None:
        api = self.gateway._api.invoices
        api.pay(one.stripe_id)


@pytest.fixture(scope="module")
def clock() -> LaterClock:
    """As far ahead as the module's stand-in."""
    return LaterClock()


@pytest.fixture
def house(sqlite: Engine, stripe: StandIn, gateway: StripeGateway, clock: LaterClock) -> House:
    return House(sqlite, stripe, gateway, clock)


@pytest.fixture
def either_house(
    store: Engine, stripe: StandIn, gateway: StripeGateway, clock: LaterClock
) -> House:
    """On both databases."""
    return House(store, stripe, gateway, clock)


def give_key(store: Engine, tenant: str) -> None:
    terms = KeyTerms(
        tenant=tenant, project="p", label="", scopes=("inference",), service_tiers=("standard",)
    )
    entropy = secrets.token_bytes(CREATION_ENTROPY_BYTES)
    create_key(store, terms, created_by="ada", now_ms=1, entropy=entropy)


def test_tenant_is_reminded_suspended_and_served_again(either_house: House) -> None:
    house = either_house
    one = house.failing()
    mails = [sent(house.stripe.base).count(one.stripe_id)]
    suspended_on = None
    for day in range(1, 25):
        house.pass_days(1)
        result = house.dunning().run()
        assert result.failed == {}
        mails.append(sent(house.stripe.base).count(one.stripe_id))
        if result.suspended:
            assert suspended_on is None
            suspended_on = day
    assert [day for day in range(1, 25) if mails[day] > mails[day - 1]] == [3, 10, 17]
    assert mails[-1] == 4
    assert suspended_on == 21
    assert not house.is_served(one.tenant)
    house.pay(one)
    taken = Collector(house.store, house.gateway, house.clock).take(one.stripe_id)
    assert (taken.outcome, taken.restored) == ("applied", one.tenant)
    assert house.is_served(one.tenant)


def test_pass_that_is_repeated_does_nothing_again(house: House) -> None:
    one = house.failing()
    house.pass_days(4)
    assert house.dunning().run().reminded == [one.invoice_id]
    assert house.dunning().run().reminded == []
    assert sent(house.stripe.base).count(one.stripe_id) == 2


@pytest.mark.parametrize(
    "fault", ["drop_before", "drop_after", "error_before", "error_stored", "error_after"]
)
def test_reminder_is_mailed_once_whatever_stripe_does(house: House, fault: str) -> None:
    one = house.failing()
    house.pass_days(4)
    house.stripe.plant("POST", "/send$", fault)
    assert house.dunning().run().failed == {}
    assert sent(house.stripe.base).count(one.stripe_id) == 2


def test_crash_at_every_point_of_a_reminder_mails_once(house: House) -> None:
    for point in range(1, 30):
        one = house.failing()
        house.pass_days(4)
        passed = 0

        def hook(_name: str, stop_at: int = point) -> None:
            nonlocal passed
            passed += 1
            if passed == stop_at:
                raise CrashError

        dunning = Dunning(house.store, house.gateway, house.clock, SCHEDULE, hook=hook)
        try:
            dunning.run()
        except CrashError:
            house.dunning().run()
            assert sent(house.stripe.base).count(one.stripe_id) == 2
            assert standing_of(house.store, one.invoice_id)[1] == 1
            house.pay(one)
            Collector(house.store, house.gateway, house.clock).take(one.stripe_id)
        else:
            assert point == 6
            return
    raise AssertionError("dunning never got past its hooks")


def test_due_date_that_passed_is_dunned_without_any_webhook(house: House) -> None:
    one = issued(house.store, house.gateway)
    give_key(house.store, one.tenant)
    assert house.dunning().run().reminded == []
    house.pass_days(30 + 3)
    assert house.dunning().run().reminded == [one.invoice_id]
    house.pass_days(18)
    assert house.dunning().run().suspended == [one.tenant]


def test_payment_that_nobody_told_us_of_stops_the_suspension(house: House) -> None:
    one = house.failing()
    house.pass_days(30)
    house.pay(one)
    result = house.dunning().run()
    assert (result.reminded, result.suspended) == ([], [])
    assert row_of(house.store, one.invoice_id)[0] == "paid"
    assert house.is_served(one.tenant)


def test_whom_a_person_suspended_is_not_served_by_a_payment(house: House) -> None:
    one = house.failing()
    suspend_tenant(house.store, one.tenant, suspended_by="ada", reason="abuse", now_ms=5)
    house.pass_days(22)
    house.dunning().run()
    house.pay(one)
    Collector(house.store, house.gateway, house.clock).take(one.stripe_id)
    assert not house.is_served(one.tenant)
    resume_tenant(house.store, one.tenant)


def test_written_off_invoice_keeps_its_tenant_suspended_until_it_is_paid(house: House) -> None:
    one = house.failing()
    house.pass_days(22)
    assert house.dunning().run().suspended == [one.tenant]
    house.gateway._api.invoices.mark_uncollectible(one.stripe_id)
    collector = Collector(house.store, house.gateway, house.clock)
    assert collector.take(one.stripe_id).outcome == "applied"
    assert not house.is_served(one.tenant)
    house.pay(one)
    assert collector.take(one.stripe_id).restored == one.tenant
    assert house.is_served(one.tenant)


def test_tenant_without_a_key_is_suspended_when_it_has_one(house: House) -> None:
    one = issued(house.store, house.gateway)
    house.stripe.fail_payment(one.stripe_id)
    Collector(house.store, house.gateway, house.clock).take(one.stripe_id)
    house.pass_days(22)
    assert house.dunning().run().suspended == []
    give_key(house.store, one.tenant)
    assert house.dunning().run().suspended == [one.tenant]
    assert not house.is_served(one.tenant)
