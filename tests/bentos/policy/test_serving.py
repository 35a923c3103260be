"""The serving policy, as it reaches the server: options of the launcher, and none of the bento's."""

import pytest

from bentos.policy.load import parse_policy
from bentos.policy.release import ReleasePolicy
from bentos.policy.serving import ServingPolicy
from bentos.serving.launcher import parse

NAMES = {
    "workers": "workers",
    "batching": "batching",
    "queue": "queue",
    "deadline_seconds": "deadline_seconds",
    "largest_body_mb": "largest_body_mb",
    "log_sample": "sample",
}


def test_the_launchers_own_defaults_are_the_policys() -> None:
    assert ServingPolicy().arguments() == ()
    options = parse(["--bento", "b", "--port", "0"])
    assert {key: getattr(options, name) for key, name in NAMES.items()} == ServingPolicy().model_dump()


def test_what_a_policy_says_is_what_the_launcher_takes() -> None:
    policy = ServingPolicy(
        workers=4, batching="off", queue=7, deadline_seconds=0.25, largest_body_mb=1.5, log_sample=0.1
    )
    options = parse(["--bento", "b", "--port", "0", *policy.arguments()])
    assert {key: getattr(options, name) for key, name in NAMES.items()} == policy.model_dump()


@pytest.mark.parametrize("value", [1e-07, 0.123456789, 1234567.5])
def test_numbers_keep_every_digit(value: float) -> None:
    arguments = ServingPolicy(deadline_seconds=value).arguments()
    assert parse(["--bento", "b", "--port", "0", *arguments]).deadline_seconds == value


def test_it_changes_the_policy_and_not_the_build() -> None:
    plain, other = ReleasePolicy(), parse_policy({"serving": {"workers": 2}}, where="test")
    assert plain.build_digest() == other.build_digest()
    assert plain.digest() != other.digest()
