"""What is taken out of an environment, and what stays although it lies among tests."""

from infra.images.stage import trim


def test_tests_and_sources_go_and_what_is_imported_stays(tmp_path):
    names = (
        "numpy/core.py",
        "numpy/core.pyi",
        "numpy/_core/tests/__init__.py",
        "numpy/_core/tests/_natype.py",  # numpy.testing of numpy 2.2 imports it
        "numpy/_core/tests/test_array.py",
        "numpy/_core/tests/data/values.csv",
        "theirs/tests/needed.py",
    )
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    trim(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {
        "numpy/core.py",
        "numpy/_core/tests/__init__.py",
        "numpy/_core/tests/_natype.py",
        "theirs/tests/needed.py",
    }
