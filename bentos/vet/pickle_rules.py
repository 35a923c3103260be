"""What a pickle may name, make and call while it loads: the tables behind ``pickle_walk``. Everything else is refused."""

from __future__ import annotations

import re
from collections.abc import Collection

_LIBRARIES = r"(numpy|scipy|sklearn|pandas|xgboost|lightgbm|statsmodels|patsy|formulaic)(\.\w+)*"
_MLFLOW = r"mlflow\.(pyfunc|models|types|exceptions)(\.\w+)*"
_STDLIB = (
    r"(abc|array|base64|bisect|cmath|collections|collections\.abc|copy|dataclasses|datetime|decimal|enum|fractions|functools"
    r"|hashlib|heapq|itertools|json|logging|math|numbers|operator|pathlib|random|re|statistics|string|struct|textwrap|time"
    r"|types|typing|unicodedata|uuid|warnings|zoneinfo)"
)

# Parts of trusted libraries that read, write, run or fetch things.
_DENIED_MODULE = re.compile(
    r"(^|\.)(testing|_testing|tests|conftest|io|f2py|distutils|ctypeslib|externals|datasets|_build_utils|computation"
    r"|npyio|_npyio_impl|_datasource|memmap|clipboard|dask|spark|cli|sandbox|iolib)(\.|$)"
)
_DENIED_NAME = re.compile(
    r"(memmap|DataSource|fromfile|load\w*|save\w*|read_\w+|to_\w+|eval|query|ExcelWriter|HDFStore|\w*Parallel|Memory)"
)

_BUILTIN_VALUES = re.compile(
    r"(object|type|int|float|str|bool|bytes|bytearray|complex|list|dict|set|frozenset|tuple|slice|range|property|classmethod"
    r"|staticmethod|super|len|abs|min|max|sum|round|sorted|any|all|enumerate|zip|map|filter|reversed|repr|isinstance"
    r"|\w+Error|\w*Exception|NotImplemented|Ellipsis|NoneType)"
)
_NUMPY_SCALAR = (
    r"(dtype|ndarray|matrix|recarray|record|bool_?|str_|bytes_|void|object_|u?int(8|16|32|64|c|p)|u?longlong|u?long|u?byte"
    r"|u?short|float(16|32|64|128)|longdouble|complex(64|128|256)|clongdouble|datetime64|timedelta64|generic)"
)

# scikit-learn up to 1.8 compiled sklearn/_loss/_loss.pyx under the bare name `_loss`, and its boosted models say so:
# https://github.com/scikit-learn/scikit-learn/issues/30062
_SKLEARN_LOSS = (
    r"_loss",
    r"(__pyx_unpickle_)?Cy(AbsoluteError|ExponentialLoss|HuberLoss|LossFunction|PinballLoss"
    r"|Half(Binomial|Gamma|Multinomial|Poisson|Tweedie)Loss|HalfSquaredError|HalfTweedieLossIdentity)",
)

# (module, name) of what may be called by REDUCE while the pickle loads. Each was read: it builds a value and does no more.
_CALLABLE = [
    (r"builtins", r"(object|int|float|str|bool|bytes|bytearray|complex|list|dict|set|frozenset|tuple|slice|range|property|classmethod|staticmethod|\w+Error|Exception)"),
    (r"collections", r"(OrderedDict|defaultdict|deque|Counter)"),
    (r"datetime", r"(datetime|date|time|timedelta|timezone)"),
    (r"decimal", r"Decimal"),
    (r"fractions", r"Fraction"),
    (r"functools", r"partial"),
    (r"operator", r"itemgetter"),
    (r"pathlib", r"P\w*Path"),
    (r"re", r"_compile"),
    (r"uuid", r"UUID"),
    (r"zoneinfo", r"ZoneInfo(\._unpickle)?"),
    (r"logging", r"getLogger"),
    (r"types", r"(CodeType|MethodType|SimpleNamespace|MappingProxyType)"),
    (r"array", r"_array_reconstructor"),
    (r"numpy(\.\w+)*", _NUMPY_SCALAR),
    (r"numpy\.(_?core)\.(multiarray|_multiarray_umath)", r"(_reconstruct|scalar)"),
    (r"numpy\.(_?core)\.numeric", r"_frombuffer"),
    (r"numpy\.(_?core)(\.\w+)*", r"_ufunc_reconstruct"),
    (r"numpy\.ma\.core", r"_mareconstruct"),
    (r"numpy\.random(\.\w+)*", r"(__bit_generator_ctor|__generator_ctor|__randomstate_ctor|__pyx_unpickle_\w+)"),
    (r"numpy\.dtypes|numpy", r"[A-Z]\w*DType"),
    (r"pandas\._libs(\.\w+)*", r"(_unpickle_\w+|_nat_unpickle|__pyx_unpickle_\w+|BlockPlacement|[A-Z]\w*Engine|NDArrayBacked|Interval)"),
    (r"pandas\.core\.indexes(\.\w+)*", r"(_new_\w+|[A-Z]\w*Index)"),
    (r"pandas\.core\.(dtypes|arrays|internals)(\.\w+)*", r"([A-Z]\w*(Dtype|Array|Block|Manager)|new_block|_unpickle_\w+)"),
    (r"pandas\.core\.(frame|series)", r"(DataFrame|Series)"),
    (r"pandas\._libs\.tslibs\.\w+|pandas", r"([A-Z]\w*Offset|[A-Z][a-z]+|Timestamp|Timedelta|Period)"),
    (r"scipy\.sparse(\.\w+)*", r"\w+_(matrix|array)"),
    (r"scipy\.(interpolate|spatial)(\.\w+)*", r"[A-Z]\w*|__pyx_unpickle_\w+"),
    (r"sklearn(\.\w+)*", r"([A-Z]\w*|__pyx_unpickle_\w+|_?newObj)"),
    (r"statsmodels\.tsa\.statespace\._\w+", r"[sdcz]?[A-Z]\w*|__pyx_unpickle_\w+"),
    _SKLEARN_LOSS,
]  # fmt: skip
_CALLABLE_PATTERNS = [(re.compile(module), re.compile(name)) for module, name in _CALLABLE]
_LIBRARY_VALUE = re.compile(f"({_LIBRARIES}|{_MLFLOW}|{_STDLIB})")
_CLASS_NAME = re.compile(rf"(_*[A-Z]\w*|{_NUMPY_SCALAR}|\w+_(matrix|array|gen|frozen)|rv_\w+)")

RISKY_STDLIB = frozenset({"antigravity", "this", "idlelib", "turtledemo", "test", "lib2to3", "__main__"})
"""Standard modules whose import does something."""

CLASS_ATTRIBUTES = frozenset(
    (  # noqa: SIM905 a table of names
        "__module__ __doc__ __qualname__ __name__ __dict__ __weakref__ __annotations__ __slots__ __init__ __call__ "
        "__repr__ __str__ __getstate__ __reduce__ __reduce_ex__ __len__ __iter__ __next__ __getitem__ __contains__ "
        "__enter__ __exit__ __abstractmethods__ __orig_bases__ __parameters__ __match_args__ __dataclass_fields__ "
        "__dataclass_params__ __firstlineno__ __static_attributes__ __slotnames__ __eq__ __ne__ __hash__ __lt__ "
        "__le__ __gt__ __ge__ __sklearn_tags__ __sklearn_is_fitted__ __class_getitem__ __type_params__"
    ).split()
)
"""Special attributes that a class pickled by value may have: loading a pickle calls none of them."""

INSTANCE_ATTRIBUTES = frozenset(("__doc__", "__module__", "__name__", "__qualname__", "__wrapped__"))
"""Special attributes that an instance's state may set: nothing looks them up to call them."""

HOLDERS = frozenset(
    (
        "functools.partial",
        "collections.defaultdict",
        "builtins.property",
        "builtins.classmethod",
        "builtins.staticmethod",
        "types.MethodType",
    )
)
"""What may be handed a function that the pickle carries: these keep it and do not call it."""


def trusted(name: str, types: Collection[str]) -> bool:
    """True where the policy names *name* (``module.Type``), or a package of it as ``module.*``."""
    parts = name.split(".")
    return name in types or any(".".join(parts[:end]) + ".*" in types for end in range(1, len(parts)))


def may_name(module: str, name: str) -> bool:
    """True where a pickle may refer to ``module.name`` without calling it."""
    if module == "enum" and name in ("Enum.__new__", "Enum.__format__", "Enum._generate_next_value_"):
        return True
    if "." in name or (
        name.startswith("__") and not name.startswith(("__pyx_unpickle_", "__bit", "__gen", "__random"))
    ):
        return (module, name) == ("zoneinfo", "ZoneInfo._unpickle")
    if module == "builtins":
        return bool(_BUILTIN_VALUES.fullmatch(name))
    if module == _SKLEARN_LOSS[0]:
        return bool(re.fullmatch(_SKLEARN_LOSS[1], name))
    return bool(_LIBRARY_VALUE.fullmatch(module)) and not _denied(module, name)


def may_call(module: str, name: str) -> bool:
    """True where a pickle may call ``module.name`` with values while it loads."""
    if _denied(module, name):
        return False
    return any(where.fullmatch(module) and what.fullmatch(name) for where, what in _CALLABLE_PATTERNS)


def may_make(module: str, name: str) -> bool:
    """True where a pickle may make a bare instance of the class ``module.name`` (its ``__new__`` alone runs)."""
    if may_call(module, name):
        return True
    library = re.fullmatch(f"{_LIBRARIES}|{_MLFLOW}|uuid|dataclasses|typing", module)
    return library is not None and not _denied(module, name) and _CLASS_NAME.fullmatch(name) is not None


def _denied(module: str, name: str) -> bool:
    return bool(_DENIED_NAME.fullmatch(name) or _DENIED_MODULE.search(module))
