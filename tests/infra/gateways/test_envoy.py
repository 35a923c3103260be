"""The real Envoy, asked as a client asks it."""

import json
import signal
import threading
import time
from collections import Counter
from urllib.parse import quote

import pytest

from bentos.policy.gates import StickyKey
from infra.gateways.interface import PermanentGatewayError, TransientGatewayError


def invocations(plan):
    return f"/models/{plan.model}/invocations"


def test_the_gateway_answers_for_itself(envoy):
    _, client = envoy
    status, headers, body = client.ask("/v2")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body)["name"] == "shipway"
    assert json.loads(body)["extensions"] == ["binary_tensor_data"]
    assert client.ask("/v2/health/live")[::2] == (200, b'{"live": true}')
    assert client.ask("/v2/health/ready")[::2] == (200, b'{"ready": true}')


@pytest.mark.parametrize("path", ["/", "/models/nobody/invocations", "/v2/models/nobody/infer", "/invocations"])
def test_an_unknown_path_says_what_to_ask_for(envoy, path):
    status, headers, body = envoy[1].ask(path, body="{}")
    assert (status, headers["content-type"]) == (404, "application/json")
    assert "/models/<name>/invocations" in json.loads(body)["error"]


def test_paths_headers_and_request_ids(envoy, serve, plan_of):
    gateway, client = envoy
    plan = plan_of(serve("1")[0])
    gateway.apply(plan)
    own = "0123456789ab-my-own-request-id-000001"
    forged = {"x-shipway-assigned": "candidate/9", "x-shipway-anything": "1", "x-envoy-max-retries": "9"}
    status, headers, body = client.ask(invocations(plan), {"x-request-id": own, **forged}, body="{}")
    seen = json.loads(body)
    assert status == 200
    assert seen["path"] == "/invocations"
    assert seen["headers"]["x-request-id"] == headers["x-request-id"] == own
    assert seen["headers"]["x-shipway-assigned"] == "baseline/1"
    assert seen["headers"]["x-envoy-attempt-count"] == "1"
    assert not {"x-shipway-anything", "x-envoy-max-retries"} & seen["headers"].keys()
    assert not [name for name in headers if name.startswith("x-envoy")]

    kept = json.loads(client.ask(f"/v2/models/{plan.model}/infer", body="{}")[2])
    assert kept["path"] == f"/v2/models/{plan.model}/infer"
    assert len(kept["headers"]["x-request-id"]) == 36
    assert json.loads(client.ask(f"/v2/models/{plan.model}")[2])["path"] == f"/v2/models/{plan.model}"
    assert client.ask(f"/v2/models/{plan.model}x")[0] == 404


def test_a_model_name_with_odd_characters(envoy, serve, plan_of):
    from dataclasses import replace

    gateway, client = envoy
    plan = replace(plan_of(serve("1")[0]), model="odd (name) 100% .*+")
    gateway.apply(plan)
    assert gateway.plan(plan.model) == plan
    assert client.ask(f"/models/{quote(plan.model)}/invocations", body="{}")[0] == 200
    gateway.remove(plan.model)


def test_every_live_request_is_mirrored_once_and_none_twice(envoy, serve, plan_of):
    gateway, client = envoy
    first, second = serve("1", "2")
    plan = plan_of(first, second, weight=50, mirror=100.0)
    gateway.apply(plan)
    for _ in range(60):
        assert client.ask(invocations(plan), body="{}")[0] == 200
    deadline = time.monotonic() + 3
    while (counts := second.get("/counts"))["answered"] < 60 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert counts["answered"] == 60
    assert counts["mirrored"] == first.get("/counts")["answered"] == 60 - (counts["answered"] - counts["mirrored"])


def test_sticky_users_stay_on_their_arm_while_the_weight_grows(envoy, serve, plan_of):
    gateway, client = envoy
    first, second = serve("1", "2")

    def assign(weight):
        plan = plan_of(first, second, weight=weight, sticky=StickyKey(kind="cookie", name="user"))
        gateway.apply(plan)
        return {
            user: client.ask(invocations(plan), {"cookie": f"user=u{user}"}, body="{}")[1]["x-shipway-version"]
            for user in range(200)
        }

    few, again, many = assign(10), assign(10), assign(50)
    assert few == again
    assert 8 <= Counter(few.values())["2"] <= 35
    assert 75 <= Counter(many.values())["2"] <= 125
    assert all(many[user] == "2" for user, version in few.items() if version == "2")


def test_a_rate_limit_covers_both_path_forms(envoy, serve, plan_of):
    gateway, client = envoy
    plan = plan_of(serve("1")[0], requests_per_second=5)
    gateway.apply(plan)
    paths = [invocations(plan), f"/v2/models/{plan.model}/infer"]
    statuses = Counter(client.ask(paths[number % 2], body="{}")[0] for number in range(20))
    assert statuses.keys() == {200, 429}
    assert 5 <= statuses[200] <= 10


def test_a_request_that_no_arm_answers_in_time_ends_with_504(envoy, serve, plan_of):
    gateway, client = envoy
    (first,) = serve("1")
    plan = plan_of(first, timeout_seconds=0.3)
    gateway.apply(plan)
    first.get("/mode/slow")
    assert client.ask(invocations(plan), body="{}")[0] == 504
    assert gateway.stats(plan.model)[plan.baseline.deployment].timeouts == 1


def test_promoting_and_rolling_back_ten_times_under_load_fails_nothing(envoy, serve, plan_of):
    gateway, client = envoy
    first, second = serve("1", "2")
    old, new = plan_of(first), plan_of(second)
    gateway.apply(old)
    with client.open_loop(invocations(old)) as answers:
        for _ in range(10):
            for plan in (plan_of(first, second, mirror=100.0), plan_of(first, second, weight=50), new, old):
                time.sleep(0.05)
                gateway.apply(plan)
        time.sleep(0.2)
    assert answers.failed == {}
    assert answers.arms["1"] > 50 and answers.arms["2"] > 50


def frozen(server):
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(3.0)
    server.process.send_signal(signal.SIGCONT)


def killed(server):
    server.process.kill()
    time.sleep(1.0)


def half_failing(server):
    server.get("/mode/half")
    time.sleep(1.0)
    server.get("/mode/ok")


@pytest.mark.parametrize("traffic", [{"weight": 50}, {"mirror": 100.0}], ids=["split", "mirrored"])
@pytest.mark.parametrize("harm", [killed, frozen, half_failing])
def test_users_do_not_feel_a_bad_candidate(envoy, serve, plan_of, traffic, harm):
    gateway, client = envoy
    first, second = serve("1", "2")
    plan = plan_of(first, second, candidate_timeout_seconds=0.2, timeout_seconds=5, **traffic)
    gateway.apply(plan)
    with client.open_loop(invocations(plan)) as answers:
        time.sleep(0.4)
        harm(second)
        if harm is killed:
            gateway.apply(plan_of(first))
        time.sleep(0.4)
    assert answers.failed == {}
    assert answers.arms["1"] > 0
    stats = gateway.stats(plan.model)
    candidate = stats[plan.candidate.deployment]
    counted = {
        killed: candidate.connect_failures + candidate.resets + candidate.no_healthy,
        frozen: candidate.timeouts + candidate.no_healthy,
        half_failing: candidate.failures_5xx,
    }[harm]
    assert 20 < counted <= sum(answers.statuses.values()), candidate
    if "weight" in traffic:
        assert answers.fallbacks > 20
        assert answers.arms["2"] > 0
        assert answers.fallbacks <= counted + 5, "every fallback is on the candidate's account"
    baseline = stats[plan.baseline.deployment]
    assert (baseline.failures_5xx, baseline.timeouts, baseline.connect_failures) == (0, 0, 0)


@pytest.mark.parametrize("mode", ["full", "refuses"])
def test_what_a_candidate_turns_away_or_refuses_the_baseline_answers(envoy, serve, plan_of, mode):
    gateway, client = envoy
    first, second = serve("1", "2")
    second.get(f"/mode/{mode}")
    plan = plan_of(first, second, weight=50)
    gateway.apply(plan)
    with client.open_loop(invocations(plan)) as answers:
        time.sleep(0.6)
    assert answers.failed == {}
    assert answers.fallbacks > 20


@pytest.mark.parametrize(("mode", "status"), [("broken", 500), ("hangs", 504)])
def test_who_names_the_candidates_version_gets_its_own_failure(envoy, serve, plan_of, mode, status):
    gateway, client = envoy
    first, second = serve("1", "2")
    second.get(f"/mode/{mode}")
    plan = plan_of(first, second, weight=50, candidate_timeout_seconds=0.3, timeout_seconds=1)
    gateway.apply(plan)
    named = f"/v2/models/{plan.model}/versions"
    assert client.ask(f"{named}/2/infer", body="{}")[0] == status
    found = client.ask(f"{named}/1/infer", body="{}")
    assert (found[0], found[1]["x-shipway-version"], found[1].get("x-shipway-fallback")) == (200, "1", None)
    candidate = gateway.stats(plan.model)[plan.candidate.deployment]
    assert candidate.failures_5xx + candidate.timeouts == 1


def test_a_rollback_while_the_frozen_candidate_holds_requests_fails_none(envoy, serve, plan_of):
    gateway, client = envoy
    first, second = serve("1", "2")
    plan = plan_of(first, second, weight=50, candidate_timeout_seconds=0.5)
    gateway.apply(plan)
    with client.open_loop(invocations(plan)) as answers:
        time.sleep(0.3)
        second.process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        gateway.apply(plan_of(first))
        second.process.kill()
        time.sleep(0.6)
    assert answers.failed == {}


def test_a_plan_that_envoy_refuses_leaves_the_routes(envoy, serve, plan_of):
    gateway, client = envoy
    plan = plan_of(serve("1")[0])
    gateway.apply(plan)
    with pytest.raises(PermanentGatewayError, match="refused"):
        gateway.apply(plan_of("/far" * 40))
    assert gateway.plan(plan.model) == plan
    assert client.ask(invocations(plan), body="{}")[0] == 200


def test_two_writers_of_many_models_lose_nothing(envoy, serve, plan_of):
    from dataclasses import replace

    gateway, client = envoy
    plan = plan_of(serve("1")[0])
    plans = [replace(plan, model=f"{plan.model}-{number}") for number in range(8)]
    threads = [threading.Thread(target=gateway.apply, args=(each,)) for each in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    live = gateway.plans()
    for each in plans:
        assert live[each.model] == each
        assert client.ask(invocations(each), body="{}")[0] == 200
        gateway.remove(each.model)


def test_everything_is_back_after_envoy_was_killed(make_gateway, start_envoy, client_for, serve, plan_of):
    gateway, port = make_gateway()
    first, second = serve("1", "2")
    plan = plan_of(first, second, weight=50)
    with pytest.raises(TransientGatewayError, match="does not answer"):
        gateway.apply(plan)
    process = start_envoy(gateway)
    try:
        gateway.apply(plan)
        process.kill()
        process.wait()
        with pytest.raises(TransientGatewayError, match="does not answer"):
            gateway.plan(plan.model)
        process = start_envoy(gateway)
        assert gateway.plan(plan.model) == plan
        assert client_for(port).ask(invocations(plan), body="{}")[0] == 200
        process.kill()
        process.wait()
        assert gateway.lapse(plan.expires_at + 1) == [plan.model], "a lease ends while Envoy is away, too"
        process = start_envoy(gateway)
        assert gateway.plan(plan.model) == plan.settled()
    finally:
        process.kill()
        process.wait()


def test_tracing_is_settable(make_gateway, start_envoy):
    gateway, _ = make_gateway(tracing="127.0.0.1:4317")
    process = start_envoy(gateway)
    process.terminate()
    assert process.wait(timeout=20) == 0


def test_a_retreat_from_a_gateway_that_hangs_holds_once_it_goes_on(
    make_gateway, start_envoy, client_for, serve, plan_of
):
    gateway, port = make_gateway()
    envoy, client = start_envoy(gateway), client_for(port)
    first, second = serve("1", "2")
    plan = plan_of(first, second, weight=90)
    try:
        gateway.apply(plan)
        envoy.send_signal(signal.SIGSTOP)
        with pytest.raises(TransientGatewayError):
            gateway.apply(plan.settled())
        envoy.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + 10
        while gateway.plan(plan.model) != plan.settled():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        versions = Counter(client.ask(invocations(plan), body="{}")[1]["x-shipway-version"] for _ in range(30))
        assert versions == {"1": 30}
    finally:
        envoy.send_signal(signal.SIGCONT)
        envoy.kill()
        envoy.wait()
    gateway.bootstrap()  # as at the next start
    envoy = start_envoy(gateway)
    try:
        assert gateway.plan(plan.model) == plan.settled()
    finally:
        envoy.kill()
        envoy.wait()


def test_draining_fails_nobody_who_is_in(make_gateway, start_envoy, client_for, serve, plan_of):
    gateway, port = make_gateway()
    envoy, client = start_envoy(gateway), client_for(port)
    (first,) = serve("1")
    plan = plan_of(first)
    try:
        gateway.apply(plan)
        began = time.monotonic()
        gateway.drain()
        assert time.monotonic() - began < 1.0  # nobody was in
    finally:
        envoy.kill()
        envoy.wait()
    envoy = start_envoy(gateway)
    try:
        first.get("/mode/slow")  # a second each
        answers = []
        asking = [
            threading.Thread(target=lambda: answers.append(client.ask(invocations(plan), body="{}")[:2]))
            for _ in range(8)
        ]
        for thread in asking:
            thread.start()
        time.sleep(0.4)
        gateway.drain()
        envoy.terminate()
        for thread in asking:
            thread.join()
        assert [status for status, _ in answers] == [200] * 8
        assert {headers["connection"] for _, headers in answers} == {"close"}
        gateway.drain()  # of an Envoy that is away
    finally:
        envoy.kill()
        envoy.wait()
