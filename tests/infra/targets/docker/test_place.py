import re

import pytest

from infra.targets.docker.place import container_name, free_port, remove_run_folder, run_folder
from infra.targets.interface import PermanentTargetError
from infra.targets.sockets import LONGEST_PATH


@pytest.mark.parametrize("deployment", ["flights-1-11111111", "Ein Modell (neu)-1-11111111", "ü-1-11111111", "m" * 300])
def test_a_container_has_the_name_of_a_host(deployment):
    name = container_name("0123456789abcdef", deployment)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name)
    assert name != container_name("0123456789abcdef", deployment + "x") != container_name("another stack", deployment)


def test_a_run_folder_is_found_again_and_leaves_nothing(tmp_path):
    deep = tmp_path / ("d" * LONGEST_PATH)
    for home in (tmp_path / "short", deep):
        run = run_folder(home)
        run.mkdir(parents=True, mode=0o700)
        assert run_folder(home) == run
        assert len(str(run / "server.sock")) <= LONGEST_PATH
        remove_run_folder(home)
        assert not run.exists()
    assert not run_folder(deep).exists()
    remove_run_folder(deep)


def test_a_port_that_is_on_record_is_not_given_away():
    with pytest.raises(PermanentTargetError, match="no free port"):
        free_port(range(65536))
    assert 0 < free_port([]) < 65536
