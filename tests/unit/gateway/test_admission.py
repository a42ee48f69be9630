"""Turns and slots, without sockets."""

import asyncio
from dataclasses import replace

import pytest

from slm_operator.gateway.admission import Admission, Admissions
from slm_operator.gateway.directory import Canary, Endpoint, MemoryDirectory, Service
from slm_operator.gateway.limits import Limits
from slm_operator.gateway.refusal import Refusal

ENGINE, OTHER = Endpoint("e0", "10.0.0.1", 80), Endpoint("e1", "10.0.0.2", 80)


def service(*endpoints: Endpoint) -> Service:
    return Service("default", "qwen", endpoints=endpoints, to_come=frozenset({"legal", "french"}))


def admission(of: Service) -> Admission:
    return Admission(of, Limits(), lambda *_: None, lambda _: None)


async def waiting_for(one: Admission, count: int) -> list[asyncio.Task[Endpoint]]:
    tasks = [asyncio.create_task(one.take("", 10, 5.0)) for _ in range(count)]
    await asyncio.sleep(0)
    assert one.waiting == count
    return tasks


async def test_whoever_leaves_while_a_slot_gets_free_loses_it_for_nobody() -> None:
    one = admission(service(ENGINE))
    taken = one.try_take("")
    assert taken == ENGINE
    leaving, staying = await waiting_for(one, 2)
    leaving.cancel()
    one.release(taken)  # In the same pass of the event loop: whoever left has not been told of it yet.
    assert await staying == ENGINE
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (one.in_flight, one.waiting) == (1, 0)
    one.release(ENGINE)
    assert one.try_take("") == ENGINE


async def test_who_waits_for_word_that_engines_will_come_counts_as_waiting() -> None:
    stopped = replace(service(), no_engine="it is stopped")
    one = Admission(stopped, Limits(queue_length=2, notice_seconds=0.05), lambda *_: None, lambda _: None)
    asked = [asyncio.create_task(one.take("", 10, 5.0)) for _ in range(3)]
    codes = [each.code for each in await asyncio.gather(*asked, return_exceptions=True) if isinstance(each, Refusal)]
    assert codes == ["not_served", "not_served", "queue_full"]
    larger = Admission(stopped, Limits(queue_bytes=15, notice_seconds=0.05), lambda *_: None, lambda _: None)
    asked = [asyncio.create_task(larger.take("", 10, 5.0)) for _ in range(2)]
    codes = [each.code for each in await asyncio.gather(*asked, return_exceptions=True) if isinstance(each, Refusal)]
    assert codes == ["not_served", "queue_full"]


@pytest.mark.parametrize("now", [service(ENGINE), None])
async def test_whoever_leaves_while_the_service_changes_stops_nothing(now: Service | None) -> None:
    one = admission(service())
    (leaving,) = await waiting_for(one, 1)
    leaving.cancel()
    one.update(now)  # It is called by what follows the cluster, which an exception would end.
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert (one.in_flight, one.waiting) == (0, 0)


async def test_an_engine_that_is_not_ready_for_a_moment_has_as_many_slots_as_before() -> None:
    larger = replace(ENGINE, slots=2)
    one = admission(service(larger))
    assert [one.try_take(""), one.try_take(""), one.try_take("")] == [larger, larger, None]
    one.update(service())
    one.release(ENGINE)
    one.update(service(OTHER, ENGINE))
    assert [one.try_take(""), one.try_take("")] == [OTHER, None], "the answer under way keeps its slot"
    one.release(ENGINE)
    one.release(OTHER)
    assert sorted(each.id for each in (one.try_take(""), one.try_take("")) if each) == ["e0", "e1"]
    assert one.try_take("") is None
    assert one.in_flight == 2


async def test_engines_that_are_gone_are_not_remembered() -> None:
    one = admission(service(ENGINE))
    one.try_take("")
    one.update(service())
    one.release(ENGINE)
    one.update(service(OTHER))
    assert one._leaving == {}


async def test_a_service_that_changed_while_its_caller_was_reviewed_is_taken_as_it_is_now() -> None:
    before = service()
    directory = MemoryDirectory([before])
    every = Admissions(directory, Limits(), lambda *_: None, lambda _: None)
    directory.put(service(ENGINE))
    assert every.of(before).try_take("") == ENGINE


async def test_a_service_that_went_while_its_caller_was_reviewed_is_none() -> None:
    before = service(ENGINE)
    directory = MemoryDirectory([before])
    every = Admissions(directory, Limits(), lambda *_: None, lambda _: None)
    directory.remove(before.key)
    with pytest.raises(Refusal, match="does not exist"):
        every.of(before)
    assert every.loads() == {}


async def test_a_request_whose_engine_broke_does_not_wait_for_a_service_that_is_gone() -> None:
    one = admission(service(ENGINE))
    taken = one.try_take("")
    assert taken is not None
    one.update(None)
    one.release(taken)
    with pytest.raises(Refusal, match="does not exist"):
        await one.take("", 10, 5.0, again=True)


LEGAL = replace(OTHER, adapters=("legal",))


async def test_who_picks_an_adapter_gets_an_engine_that_has_it_however_idle_others_are() -> None:
    one = admission(service(ENGINE, LEGAL))
    assert one.try_take("", "legal") == LEGAL
    assert one.try_take("", "legal") is None
    assert one.try_take("") == ENGINE


async def test_who_waits_for_an_adapter_that_no_engine_has_yet_is_in_nobodys_way() -> None:
    one = admission(service(ENGINE))
    waiter = asyncio.create_task(one.take("", 10, 5.0, "legal"))
    await asyncio.sleep(0)
    assert (one.try_take(""), one.waiting) == (ENGINE, 1)
    (behind,) = [asyncio.create_task(one.take("", 10, 5.0))]
    await asyncio.sleep(0)
    one.release(ENGINE)
    assert await behind == ENGINE
    one.update(service(ENGINE, LEGAL))
    assert (await waiter, one.waiting) == (LEGAL, 0)


async def test_who_waits_for_a_slot_of_an_adapters_engine_is_not_overtaken_for_ever() -> None:
    one = admission(service(LEGAL))
    assert one.try_take("") == LEGAL
    first = asyncio.create_task(one.take("", 10, 5.0, "legal"))
    await asyncio.sleep(0)
    one.release(LEGAL)
    assert (await first, one.try_take("")) == (LEGAL, None)


async def test_who_waits_for_a_full_engine_with_an_adapter_holds_up_nobody_who_can_go_elsewhere() -> None:
    spare = replace(ENGINE, id="e2", slots=2, adapters=("french",))
    one = admission(service(spare, LEGAL))
    assert one.try_take("", "legal") == LEGAL
    waiting = [asyncio.create_task(one.take("", 10, 5.0, "legal")) for _ in range(2)]
    await asyncio.sleep(0)
    assert (one.try_take("", "french"), one.waiting) == (spare, 2)
    assert one.try_take("", "legal") is None, "those before it wait for the same"
    assert one.try_take("") == spare
    behind = asyncio.create_task(one.take("", 10, 5.0))
    await asyncio.sleep(0)
    one.release(spare)
    assert (await behind, one.waiting) == (spare, 2)
    one.release(LEGAL)
    assert await waiting[0] == LEGAL
    one.release(LEGAL)
    assert (await waiting[1], one.waiting) == (LEGAL, 0)


async def test_a_canary_that_is_to_get_nothing_gets_nothing_for_an_adapter_that_it_alone_has() -> None:
    tried = replace(LEGAL, canary=True)
    one = admission(service(ENGINE, tried))
    assert one.try_take("", "legal") is None
    one.update(service(tried))
    assert one.try_take("", "legal") == tried, "there is no other engine"


async def test_an_adapter_that_only_a_canary_has_is_the_canarys_whatever_its_share() -> None:
    tried = replace(LEGAL, canary=True, slots=4)
    one = admission(replace(service(ENGINE, tried), canary=Canary("step", 1)))
    assert [one.try_take("", "legal") for _ in range(3)] == [tried] * 3
