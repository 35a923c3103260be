"""The pickle walk: honest models pass, whatever would act while loading is refused, and nothing is ever executed."""

from __future__ import annotations

import copyreg
import dataclasses
import datetime
import enum
import functools
import math
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import numpy
import pandas
import pytest

from bentos.vet.pickle_walk import WalkError, walk

MARK = "written-by-a-pickle"


class Reduces:
    """Pickles as a call of *function*."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._call


def write() -> None:
    Path(MARK).write_text("x")


def by_value(thing: type | Callable[..., Any]) -> Any:
    """As cloudpickle sees what was defined in a notebook."""
    thing.__module__ = "__main__"
    return thing


def fitted() -> dict[str, Any]:
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

    rows = numpy.random.default_rng(0).normal(size=(40, 3))
    target = (rows[:, 0] > 0).astype(int)
    words = pandas.DataFrame({"w": list("abcd") * 10})
    estimators = [
        LogisticRegression(), RandomForestClassifier(3), HistGradientBoostingClassifier(max_iter=2), SGDClassifier(),
        KNeighborsClassifier(algorithm="kd_tree"), make_pipeline(FunctionTransformer(numpy.log1p), LogisticRegression()),
    ]  # fmt: skip
    models = {type(one).__name__: one.fit(numpy.abs(rows), target) for one in estimators}
    return {**models, "strings": make_pipeline(OneHotEncoder(), LogisticRegression()).fit(words, target)}


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_models_of_libraries_pass(protocol: int) -> None:
    for name, model in fitted().items():
        assert walk(pickle.dumps(model, protocol)), name


def test_losses_of_an_older_scikit_learn_pass_under_their_bare_module_name_and_nothing_else_of_it() -> None:
    assert walk(b"c_loss\nCyHalfBinomialLoss\n)R.") == {"_loss.CyHalfBinomialLoss"}
    assert walk(b"\x80\x02c_loss\n__pyx_unpickle_CyHalfMultinomialLoss\nc_loss\nCyHalfMultinomialLoss\nK\x01N\x87R.")
    for name in ("CyOther", "system", "CyHalfBinomialLoss.__init__"):
        with pytest.raises(WalkError, match="_loss"):
            walk(f"\x80\x02c_loss\n{name}\n)R.".encode("latin-1"))


def test_code_by_value_is_built_and_passes() -> None:
    @by_value
    @dataclasses.dataclass
    class Options:
        factor: float = 2.0
        names: list[str] = dataclasses.field(default_factory=list)

    @by_value
    class Mode(enum.Enum):
        FAST = 1

    @by_value
    class Model:
        def __init__(self) -> None:
            self.options, self.mode, self.pattern = Options(), Mode.FAST, re.compile("a+")
            self.function: Callable[[Any], Any] = lambda x: x * 2
            self.frame = pandas.DataFrame({"a": [1.0], "t": [pandas.Timestamp("2020-01-01")]})
            self.partial, self.since = functools.partial(numpy.add, 1), datetime.date(2020, 1, 1)

        @property
        def twice(self) -> float:
            return self.options.factor * 2

        def predict(self, rows: Any) -> Any:
            return math.sqrt(4), self.function(rows)

    assert "cloudpickle.cloudpickle._make_skeleton_class" in walk(cloudpickle.dumps(Model()))


def acting() -> dict[str, bytes]:
    """Pickles that would act while they are loaded; making them runs nothing either."""
    action = by_value(write)
    values: dict[str, Any] = {
        "os.system": Reduces(os.system, f"touch {MARK}"),
        "open": Reduces(open, MARK, "w"),
        "eval": Reduces(eval, "1"),
        "exec": Reduces(exec, "1"),
        "a function by value": Reduces(action),
        "a partial of it": Reduces(functools.partial(action)),
        "getattr of a module": Reduces(getattr, os, "system"),
        "numpy.save": Reduces(numpy.save, MARK, numpy.zeros(1)),
        "numpy.memmap": Reduces(numpy.memmap, MARK, "uint8", "w+", 0, (3,)),
        "an array's method": Reduces(numpy.zeros(2).tofile, MARK),
        "a frame's method": Reduces(pandas.DataFrame.to_csv, pandas.DataFrame([1]), MARK),
        "pandas.eval": Reduces(pandas.eval, "1"),
        "numpy.vectorize": Reduces(numpy.vectorize(action), 1),
        "sorted": Reduces(sorted, [1]),
        "another pickle": Reduces(pickle.loads, b"N."),
        "an import": Reduces(__import__, "os"),
        "an unknown import": Reduces(cloudpickle.cloudpickle.subimport, "some_package"),
        "an import that acts": Reduces(cloudpickle.cloudpickle.subimport, "antigravity"),
        "other globals": Reduces(cloudpickle.cloudpickle._function_setstate, numpy.sum, ({}, {"__globals__": {}})),
        "a type": Reduces(type, "x", (), {}),
        "a path's method": Reduces(Path.write_text, Path(MARK), "x"),
        "a scipy class given code": Reduces(_rbf(), [1.0, 2.0], [1.0, 2.0], action),
    }
    return {name: cloudpickle.dumps(value) for name, value in values.items()}


def _rbf() -> Any:
    from scipy.interpolate import Rbf

    return Rbf


def test_what_would_act_is_refused_and_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, data in acting().items():
        with pytest.raises(WalkError):
            pytest.fail(f"{name} passed: {sorted(walk(data))}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "method", ["__setstate__", "__new__", "__getattr__", "__getattribute__", "__setattr__", "__del__", "__init_subclass__"]
)  # fmt: skip
def test_a_class_by_value_may_not_carry_what_loading_runs(method: str) -> None:
    cls = by_value(type("Carrier", (), {method: by_value(write)}))
    instance = cls if method == "__init_subclass__" else object.__new__(cls)
    data = cloudpickle.dumps(cls) if method != "__setstate__" else cloudpickle.dumps(instance)
    with pytest.raises(WalkError, match=rf"__main__\.Carrier carries its own {method}"):
        walk(data)
    assert walk(data, ("__main__.Carrier",))
    if method == "__del__":
        del cls.__del__


def test_containers_of_its_own_and_metaclasses_are_refused() -> None:
    @by_value
    class Listing(list):  # type: ignore[type-arg]
        def append(self, item: Any) -> None:
            write()

    listing = Listing()
    list.append(listing, 1)
    with pytest.raises(WalkError, match=r"puts items into the instance __main__\.Listing"):
        walk(cloudpickle.dumps(listing))

    @by_value
    class Meta(type):
        pass

    with pytest.raises(WalkError, match="metaclass"):
        walk(cloudpickle.dumps(by_value(Meta("Of", (), {}))))


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "cannot be read"),
        (pickle.dumps([1, 2])[:-3], "cannot be read"),
        (pickle.dumps(1) + b"more", "bytes follow"),
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"ccommands\ngetoutput\n(S'1'\ntR.", "subprocess.getoutput"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"P1\n.", "PERSID"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0atesting.os\x93.", "numpy.testing.os"),
        (b"\x80\x04cnumpy\ndtype\n}\x8c\x01ab.", "changes"),
        (b"\x80\x04cpandas\nExcelWriter\n(S'x.xlsx'\ntR.", "pandas.ExcelWriter"),
        (b"\x80\x04ccollections\nOrderedDict\n)R}\x8c\x0c__setstate__Nsb.", "sets __setstate__"),
        (b"\x80\x04ccollections\nOrderedDict\n)R}b}b.", "twice"),
        (b"\x80\x04\x8c\x02os(\x8c\x06system0\x93.", "computed while loading"),
    ],
)
def test_streams_written_by_hand_are_refused(data: bytes, named: str) -> None:
    with pytest.raises(WalkError, match=re.escape(named)):
        walk(data)


def test_the_policy_can_trust_a_name_or_a_package() -> None:
    data = pickle.dumps(Reduces(os.getcwd))
    with pytest.raises(WalkError, match=r"posix\.getcwd"):
        walk(data)
    assert walk(data, ("posix.getcwd",)) == walk(data, ("posix.*",)) == {"posix.getcwd"}
    with pytest.raises(WalkError):
        walk(data, ("pos.*", "posix", "posix.getpid"))


def test_old_protocols_rebuild_by_copyreg() -> None:
    assert walk(pickle.dumps(fitted()["LogisticRegression"], 1))
    with pytest.raises(WalkError, match=r"subprocess\.Popen"):
        walk(
            cloudpickle.dumps(Reduces(copyreg.__dict__["_reconstructor"], __import__("subprocess").Popen, object, None))
        )


def test_a_formula_that_is_code_is_refused() -> None:
    from bentos.vet.pickle_walk import Made, _check_formula

    def state(formula: str) -> Made:
        return Made("container", "dict", items=[("formula", formula)])

    for plain in ("y ~ a + C(g)", "y ~ np.log(a):b - 1", "y ~ (a + b)**2"):
        _check_formula(state(plain))
    for code in ("y ~ open('x', 'w')", "y ~ a + __import__('os')", "y ~ [x for x in a]", "y ~ np.save('x', a)(1)"):
        with pytest.raises(WalkError, match="formula"):
            _check_formula(state(code))
