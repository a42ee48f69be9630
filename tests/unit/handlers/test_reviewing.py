"""What the gateway remembers of the API server's word on callers, and for how long."""

import asyncio
from typing import Any

import pytest

from slm_operator.adapters.kube_review import ACCESS_REVIEWS, TOKEN_REVIEWS
from slm_operator.errors import ClusterUnavailable
from slm_operator.gateway.access import Caller
from slm_operator.gateway.directory import Service
from slm_operator.gateway.refusal import Refusal
from slm_operator.handlers import reviewing
from slm_operator.handlers.reviewing import Reviewer

APP = "system:serviceaccount:team-a:app"
CHAT = Service("team-b", "chat")


class Client:
    """An API server's answers to reviews; what it was asked is kept."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.users = {"good": APP, "human": "jane"}
        self.audiences = ["slm.dev"]
        self.allowed = True
        self.broken = False
        self.open = self.most_open = 0

    async def write(self, _method: str, path: str, body: Any) -> Any:
        self.asked.append((path, body["spec"]))
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await asyncio.sleep(0)
        self.open -= 1
        if self.broken:
            raise ClusterUnavailable("no answer")
        if path == ACCESS_REVIEWS:
            return {"status": {"allowed": self.allowed}}
        user = self.users.get(body["spec"]["token"])
        if user is None:
            return {"status": {"authenticated": False}}
        told = {"username": user, "groups": ["g"], "uid": "1", "extra": {"pod": ["p"]}}
        return {"status": {"authenticated": True, "user": told, "audiences": self.audiences}}


class Scene:
    def __init__(self) -> None:
        self.client, self.now = Client(), 0.0
        self.reviewer = Reviewer(self.client, "slm.dev", "default", lambda: self.now)  # type: ignore[arg-type]

    def asked(self, path: str) -> int:
        return sum(each == path for each, _ in self.client.asked)


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_service_accounts_models_are_in_its_namespace_and_anybody_elses_in_the_gateways(
    scene: Scene,
) -> None:
    assert await scene.reviewer.identify("good") == Caller(APP, "team-a")
    assert await scene.reviewer.identify("human") == Caller("jane", "default")
    assert await scene.reviewer.identify("bad") is None


async def test_a_token_for_another_audience_is_nobodys(scene: Scene) -> None:
    scene.client.audiences = ["https://kubernetes.default.svc"]
    assert await scene.reviewer.identify("good") is None


async def test_the_review_of_access_says_all_that_is_known_of_the_caller(scene: Scene) -> None:
    caller = await scene.reviewer.identify("good")
    assert caller
    assert await scene.reviewer.may_use(caller, CHAT)
    resource = {"group": "slm.dev", "resource": "inferenceservices", "verb": "use"}
    assert scene.client.asked[-1][1] == {
        "user": APP,
        "uid": "1",
        "groups": ["g"],
        "extra": {"pod": ["p"]},
        "resourceAttributes": {**resource, "namespace": "team-b", "name": "chat"},
    }


async def test_a_yes_is_believed_for_a_minute_and_a_no_for_seconds(scene: Scene) -> None:
    for _ in range(3):
        assert await scene.reviewer.identify("good")
        assert await scene.reviewer.identify("bad") is None
    assert scene.asked(TOKEN_REVIEWS) == 2
    scene.now = reviewing.REFUSED_SECONDS
    scene.client.users["bad"] = "jane"
    assert await scene.reviewer.identify("bad") == Caller("jane", "default")
    scene.client.users.clear()
    assert await scene.reviewer.identify("good")
    scene.now = reviewing.REMEMBERED_SECONDS
    assert await scene.reviewer.identify("good") is None


async def test_many_who_ask_at_once_are_one_question_even_when_the_first_leaves(scene: Scene) -> None:
    first = asyncio.create_task(scene.reviewer.identify("good"))
    others = [asyncio.create_task(scene.reviewer.identify("good")) for _ in range(9)]
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.gather(*others) == [Caller(APP, "team-a")] * 9
    assert scene.asked(TOKEN_REVIEWS) == 1


async def test_an_api_server_that_does_not_answer_is_no_no_and_is_asked_again(scene: Scene) -> None:
    scene.client.broken = True
    with pytest.raises(Refusal, match="cannot ask the cluster who you are") as caught:
        await scene.reviewer.identify("good")
    assert caught.value.status == 503
    scene.client.broken = False
    assert await scene.reviewer.identify("good")


async def test_whoever_asks_with_ever_new_tokens_fills_no_memory(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviewing, "REMEMBERED", 3)
    for number in range(9):
        await scene.reviewer.identify(f"bad-{number}")
    assert len(scene.reviewer._known) == 3


async def test_somebody_who_was_never_identified_may_nothing(scene: Scene) -> None:
    assert not await scene.reviewer.may_use(Caller("jane", "default"), CHAT)


async def test_an_answer_is_as_old_as_it_is_also_when_whoever_asked_has_left(scene: Scene) -> None:
    leaving = asyncio.create_task(scene.reviewer.identify("good"))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0.01)
    assert scene.asked(TOKEN_REVIEWS) == 1
    scene.client.users.clear()
    scene.now = reviewing.REMEMBERED_SECONDS
    assert await scene.reviewer.identify("good") is None, "the token was revoked a minute ago"


async def test_what_went_wrong_in_any_way_is_asked_anew(scene: Scene) -> None:
    scene.client.audiences = None  # type: ignore[assignment]  # No API server says this.
    with pytest.raises(TypeError):
        await scene.reviewer.identify("good")
    scene.client.audiences = ["slm.dev"]
    assert await scene.reviewer.identify("good")


async def test_ever_new_tokens_ask_the_api_server_a_few_at_a_time(scene: Scene) -> None:
    found = await asyncio.gather(*(scene.reviewer.identify(f"random-{number}") for number in range(500)))
    assert set(found) == {None}
    assert scene.asked(TOKEN_REVIEWS) == 500
    assert scene.client.most_open == reviewing.REVIEWS
