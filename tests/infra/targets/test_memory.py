import pytest

from infra.targets.interface import PermanentTargetError, State, TransientTargetError
from infra.targets.memory import MemoryTarget


def test_failing_and_slow_deployments(spec_of):
    target, spec = MemoryTarget(), spec_of()
    target.ensure(spec)
    target.make_slow(spec.name)
    with pytest.raises(TransientTargetError):
        target.ready(spec.name, 1)
    target.make_failing(spec.name, "no model here")
    assert target.list()[0].state is State.FAILED
    with pytest.raises(PermanentTargetError, match="no model here"):
        target.ready(spec.name, 1)
    target.make_well(spec.name)
    target.ensure(spec)
    assert not target.is_ready(spec.name)
    target.ready(spec.name, 1)
    assert target.is_ready(spec.name)
