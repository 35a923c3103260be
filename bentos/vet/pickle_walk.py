"""Walks a pickle's opcodes without executing any: what would it name, make and call when it is loaded?

The walk keeps an abstract stack, because a list of names is not enough: a function carried by value is harmless until
something in the same pickle calls it. Accepted is what sklearn, numpy, pandas, scipy, xgboost, lightgbm, statsmodels and
cloudpickle write for honest models; code by value (lambdas, custom pyfunc classes) may be *built*, never *run*, by
loading. What a model does when it predicts is not judged here: it does that in a process of its own environment.

Opcodes: https://github.com/python/cpython/blob/3.11/Lib/pickletools.py
"""

from __future__ import annotations

import io
import pickletools
import re
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from bentos.vet.pickle_rules import (
    CLASS_ATTRIBUTES,
    HOLDERS,
    INSTANCE_ATTRIBUTES,
    RISKY_STDLIB,
    may_call,
    may_make,
    may_name,
    trusted,
)

_CLOUD = "cloudpickle.cloudpickle"
_MARK = object()
_SAFE_TYPES = frozenset(
    [
        "CodeType",
        "FunctionType",
        "MethodType",
        "NoneType",
        "MappingProxyType",
        "ModuleType",
        "CellType",
        "SimpleNamespace",
        "GenericAlias",
        "UnionType",
        "BuiltinFunctionType",
        "EllipsisType",
        "NotImplementedType",
        "GeneratorType",
        "LambdaType",
    ]
)
_HOLDING_TYPES = frozenset(("type:MappingProxyType", "type:GenericAlias", "type:UnionType", "type:SimpleNamespace"))


class WalkError(ValueError):
    """A pickle that would do something no rule accepts, or that cannot be read to its end."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle looks up in a module."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Made:
    """Something that loading would make. *by_value*: its behaviour comes from the pickle itself."""

    kind: str  # instance, function, class, enum, code, module, container
    name: str
    by_value: bool = False
    items: list[Any] = field(default_factory=list)  # of a container: list items, or (key, value) pairs
    built: bool = False


def walk(data: bytes, trusted_types: Collection[str] = ()) -> frozenset[str]:
    """The names that loading *data* would look up. Raises WalkError naming the first thing that no rule accepts."""
    return _Walk(frozenset(trusted_types)).run(data)


class _Walk:
    def __init__(self, types: frozenset[str]) -> None:
        self.types = types
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.names: set[str] = set()
        self.protocol = 0

    def run(self, data: bytes) -> frozenset[str]:
        stream = io.BytesIO(data)
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                self.step(opcode.name, argument)
        except WalkError:
            raise
        except Exception as error:  # whatever a broken or hostile stream makes the parser raise: it cannot be read
            raise WalkError(f"the pickle cannot be read to its end: {type(error).__name__}: {error}") from error
        if stream.read(1):
            raise WalkError("bytes follow the end of the pickle")
        return frozenset(self.names)

    def step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name] if argument is None else argument)
        elif name in _MEMO_PUT:
            self.memo[len(self.memo) if name == "MEMOIZE" else int(argument)] = self.stack[-1]
        elif name in _MEMO_GET:
            self.stack.append(self.memo[int(argument)])
        elif name in _STRUCTURE:
            self.structure(name)
        elif name == "GLOBAL":
            module, _, attribute = str(argument).partition(" ")
            self.look_up(module, attribute)
        elif name == "STACK_GLOBAL":
            attribute, module = self.stack.pop(), self.stack.pop()
            if not (isinstance(module, str) and isinstance(attribute, str)):
                raise WalkError("a name that is computed while loading")
            self.look_up(module, attribute)
        elif name == "PROTO":
            self.protocol = int(argument)
        elif name not in ("FRAME", "STOP"):
            self.act(name, argument)

    def structure(self, name: str) -> None:
        """Opcodes that only move values or fill plain containers."""
        match name:
            case "MARK":
                self.stack.append(_MARK)
            case "POP":
                self.stack.pop()
            case "POP_MARK":
                self.marked()
            case "DUP":
                self.stack.append(self.stack[-1])
            case "TUPLE":
                self.stack.append(tuple(self.marked()))
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                self.stack[-count:] = [tuple(self.stack[-count:])]
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                self.stack.append(Made("container", name[6:].lower()))
            case "LIST":
                self.stack.append(Made("container", "list", items=self.marked()))
            case "DICT":
                self.stack.append(Made("container", "dict", items=self.pairs(self.marked())))
            case "FROZENSET":
                self.stack.append(Made("container", "set", items=self.hashed(self.marked())))
            case "APPEND":
                self.fill([self.stack.pop()])
            case "APPENDS":
                self.fill(self.marked())
            case "SETITEM":
                value, key = self.stack.pop(), self.stack.pop()
                self.fill(self.pairs([key, value]))
            case "SETITEMS":
                self.fill(self.pairs(self.marked()))
            case "ADDITEMS":
                self.fill(self.hashed(self.marked()))

    def act(self, name: str, argument: Any) -> None:
        """Opcodes that look up, make or call something."""
        match name:
            case "REDUCE":
                arguments, function = self.stack.pop(), self.stack.pop()
                self.stack.append(self.call(function, arguments))
            case "NEWOBJ":
                arguments, cls = self.stack.pop(), self.stack.pop()
                self.stack.append(self.make(cls, arguments))
            case "NEWOBJ_EX":
                keywords, arguments, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
                self.stack.append(self.make(cls, (*_tuple(arguments), *_values(keywords))))
            case "BUILD":
                state = self.stack.pop()
                self.build(self.stack[-1], state)
            case "INST":
                module, _, attribute = str(argument).partition(" ")
                arguments = tuple(self.marked())
                self.look_up(module, attribute)
                self.stack.append(self.call(self.stack.pop(), arguments))
            case "OBJ":
                cls, *rest = self.marked()
                self.stack.append(self.call(cls, tuple(rest)))
            case "BINPERSID" if "torch.*" in self.types:
                self.stack[-1] = Made("instance", "torch storage")
            case _:
                raise WalkError(f"the opcode {name}, which honest models do not need")

    # Names

    def look_up(self, module: str, attribute: str) -> None:
        if self.protocol < 3:
            module, attribute = NAME_MAPPING.get((module, attribute), (IMPORT_MAPPING.get(module, module), attribute))
        found = Global(module, attribute)
        self.names.add(str(found))
        known = (
            trusted(str(found), self.types)
            or (module == _CLOUD and attribute in _CLOUDPICKLE)
            or (module, attribute) in _REBUILD
            or may_name(module, attribute)
        )
        if not known:
            raise WalkError(f"it names {found}")
        self.stack.append(found)

    # Making and calling

    def call(self, function: Any, arguments: Any) -> Any:
        """What REDUCE would give; only named functions of the rules may be called."""
        arguments = _tuple(arguments)
        if isinstance(function, Made):
            if function.kind == "enum":
                return Made("instance", function.name, by_value=True)
            if function.kind == "type:CodeType":
                return Made("code", "code")
            if function.kind == "type:MethodType":
                return Made("function", "method", by_value=True)
            if function.kind in _HOLDING_TYPES:
                return Made("instance", function.name)
        if not isinstance(function, Global):
            raise WalkError(f"it calls {_describe(function)} while loading")
        if trusted(str(function), self.types):
            return Made("instance", str(function))
        if function.module == _CLOUD:
            return self.cloudpickle(function.name, arguments)
        if (function.module, function.name) in _REBUILD:
            return self.rebuild(function, arguments)
        if not may_call(function.module, function.name):
            raise WalkError(f"it calls {function} while loading")
        self.plain(function, arguments)
        return Made("code" if function.name == "CodeType" else "instance", str(function))

    def rebuild(self, function: Global, arguments: tuple[Any, ...]) -> Any:
        """copyreg's helpers make an instance of their first argument, _codecs.encode makes bytes, getattr a method."""
        if function.name == "getattr":  # cloudpickle writes methods of known classes so; nothing may call the result
            if len(arguments) == 2 and isinstance(arguments[0], Global) and isinstance(arguments[1], str):
                return Made("attribute", f"{arguments[0]}.{arguments[1]}")
            raise WalkError(f"it takes an attribute of {_describe(arguments[0] if arguments else None)}")
        if function.module == "_codecs":
            if len(arguments) == 2 and arguments[1] == "latin1":
                return b""
            raise WalkError(f"it calls {function} with {arguments[1:]!r}, expected 'latin1'")
        if function.name == "_reconstructor":
            base = arguments[1]
            if not (isinstance(base, Global) and base.module == "builtins"):
                raise WalkError(f"it rebuilds {_describe(arguments[0])} on {_describe(base)}")
        return self.make(arguments[0], arguments[1:])

    def make(self, cls: Any, arguments: Any) -> Made:
        """What ``cls.__new__(cls, …)`` would give."""
        if isinstance(cls, Made) and cls.kind == "class":
            return Made("instance", cls.name, by_value=True)
        if not isinstance(cls, Global):
            raise WalkError(f"it makes an instance of {_describe(cls)}")
        if not (trusted(str(cls), self.types) or may_make(cls.module, cls.name)):
            raise WalkError(f"it makes an instance of {cls}")
        self.plain(cls, _tuple(arguments))
        return Made("instance", str(cls))

    def plain(self, function: Global, arguments: tuple[Any, ...]) -> None:
        """Refuses code of the pickle's own among the arguments, except for those that only hold it."""
        if str(function) not in HOLDERS and not trusted(str(function), self.types) and _carries_code(arguments, set()):
            raise WalkError(f"it hands code that it carries to {function} while loading")

    def build(self, target: Any, state: Any) -> None:
        """What BUILD would do: ``__setstate__`` of a known class, or filling ``__dict__``."""
        if not isinstance(target, Made) or target.kind not in ("instance", "function"):
            raise WalkError(f"it changes {_describe(target)} while loading")
        if target.built:
            raise WalkError(f"it changes {_describe(target)} twice while loading")
        target.built = True
        for part in state if isinstance(state, tuple) else (state,):
            for key, _ in _pairs(part):
                if isinstance(key, str) and key.startswith("__") and key not in INSTANCE_ATTRIBUTES:
                    raise WalkError(f"it sets {key} of {_describe(target)}")
        if target.by_value and isinstance(state, tuple) and len(state) == 2 and _pairs(state[1]):
            raise WalkError(f"it sets attributes of {_describe(target)} through the object's own code")
        _check_formula(state)

    # cloudpickle's builders: they assemble functions and classes and run none of them

    def cloudpickle(self, name: str, arguments: tuple[Any, ...]) -> Any:
        match name:
            case "_builtin_type":
                if arguments[0] not in _SAFE_TYPES:
                    raise WalkError(f"it asks for types.{arguments[0]}")
                return Made(f"type:{arguments[0]}", str(arguments[0]))
            case "subimport":
                return self.subimport(arguments[0])
            case "_make_function":
                if _kind(arguments[0]) != "code" or _kind(arguments[1]) != "container":
                    raise WalkError(
                        "it makes a function from something that is no code, or on globals that are not its own"
                    )
                return Made("function", "a function carried by value", by_value=True)
            case "_function_setstate":
                if _kind(arguments[0]) != "function":
                    raise WalkError(f"it changes the function {_describe(arguments[0])} while loading")
                return None
            case "_make_skeleton_class" | "_make_skeleton_enum":
                return self.skeleton(name, arguments)
            case "_class_setstate":
                self.class_state(arguments[0], arguments[1])
                return arguments[0]
            case _:  # _make_cell, _make_empty_cell, _make_typevar, _make_dict_*, dataclass sentinels: they hold values
                if any(_by_value_instance(item) for item in arguments) and name != "_make_cell":
                    raise WalkError(f"it hands an object that carries its own code to {name} while loading")
                return Made("cell", name)

    def subimport(self, module: Any) -> Made:
        top = str(module).partition(".")[0]
        harmless = top in sys.stdlib_module_names and top not in RISKY_STDLIB
        if not isinstance(module, str) or not (
            harmless or may_name(module, "x") or top in _IMPORTABLE or trusted(f"{module}.x", self.types)
        ):
            raise WalkError(f"it imports {module} while loading; trust it as '{top}.*'")
        self.names.add(module)
        return Made("module", module)

    def skeleton(self, builder: str, arguments: tuple[Any, ...]) -> Made:
        enum = builder == "_make_skeleton_enum"
        bases = arguments[0] if enum else arguments[2]
        for base in _tuple(bases):
            if not isinstance(base, Global) and _kind(base) != "class":
                raise WalkError(f"it makes a class on the base {_describe(base)}")
        if enum:
            members, module = _pairs(arguments[3]), arguments[4]
            if any(not isinstance(key, str) or key.startswith("_") for key, _ in members):
                raise WalkError("it makes an enumeration with special members")
            if any(_by_value_instance(value) for _, value in members):
                raise WalkError("it makes an enumeration of objects that carry their own code")
            return Made("enum", f"{module}.{arguments[1]}", by_value=True)
        if str(arguments[0]) not in ("builtins.type", "abc.ABCMeta"):
            raise WalkError(f"it makes a class with the metaclass {_describe(arguments[0])}")
        keywords = dict(_pairs(arguments[3]))
        if any(_by_value_instance(value) or _kind(value) == "function" for value in keywords.values()):
            raise WalkError("it makes a class with code among its first attributes")
        return Made("class", f"{keywords.get('__module__', '__main__')}.{arguments[1]}", by_value=True)

    def class_state(self, cls: Any, state: Any) -> None:
        """A class's attributes: special ones are accepted only where loading never calls them."""
        if _kind(cls) not in ("class", "enum"):
            raise WalkError(f"it changes the class {_describe(cls)} while loading")
        if trusted(cls.name, self.types):
            return
        attributes = dict(_pairs(_tuple(state)[0]))
        for key, value in attributes.items():
            if cls.kind == "enum" and _of_enum(value):
                continue  # enum's own methods, which cloudpickle writes down with the class
            special = isinstance(key, str) and key.startswith("__") and key.endswith("__")
            if not isinstance(key, str) or (special and key not in CLASS_ATTRIBUTES) or key == "_missing_":
                raise WalkError(
                    f"the class {cls.name} carries its own {key}, which loading would run; trust it as {cls.name!r}"
                )
            if key == "_abc_impl" and _tuple(value) and "register" in attributes:
                raise WalkError(f"the class {cls.name} carries its own register, which loading would run")

    # The stack

    def marked(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if (
            not isinstance(target, Made)
            or target.by_value
            or target.built
            or target.kind not in ("container", "instance")
        ):
            raise WalkError(f"it puts items into {_describe(target)}")
        if target.kind == "container":
            target.items += items

    def pairs(self, flat: list[Any]) -> list[Any]:
        self.hashed(flat[::2])
        return list(zip(flat[::2], flat[1::2], strict=True))

    def hashed(self, items: list[Any]) -> list[Any]:
        if any(_by_value_instance(item) for item in items):
            raise WalkError("it uses an object that carries its own code as a key")
        return items


def _tuple(value: Any) -> tuple[Any, ...]:
    if isinstance(value, tuple):
        return value
    if isinstance(value, Made) and value.kind == "container":
        return tuple(value.items)
    raise WalkError(f"arguments that are {_describe(value)}")


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    """The pairs of a dict that the pickle wrote out; empty for any other value."""
    return list(value.items) if isinstance(value, Made) and (value.kind, value.name) == ("container", "dict") else []


def _values(value: Any) -> Iterable[Any]:
    return [item for _, item in _pairs(value)]


def _kind(value: Any) -> str:
    return value.kind if isinstance(value, Made) else ""


def _by_value_instance(value: Any) -> bool:
    if isinstance(value, tuple):
        return any(_by_value_instance(item) for item in value)
    return isinstance(value, Made) and value.kind == "instance" and value.by_value


def _of_enum(value: Any) -> bool:
    return (
        str(value).startswith(("enum.", "builtins."))
        if isinstance(value, Global)
        else (_kind(value) == "attribute" and value.name.startswith(("enum.", "builtins.")))
    )


def _carries_code(value: Any, seen: set[int]) -> bool:
    """True where *value*, or anything in it, is a function, a class or an instance that the pickle itself defines."""
    if isinstance(value, tuple):
        return any(_carries_code(item, seen) for item in value)
    if not isinstance(value, Made) or id(value) in seen:
        return False
    seen.add(id(value))
    return value.by_value or any(_carries_code(item, seen) for item in value.items)


def _describe(value: Any) -> str:
    if isinstance(value, Made):
        return value.name if value.kind == "function" else f"the {value.kind} {value.name}"
    return str(value) if isinstance(value, Global) else f"a {type(value).__name__}"


def _check_formula(state: Any) -> None:
    """A model formula is Python that patsy runs while statsmodels restores its data: only plain terms are accepted."""
    for part in state if isinstance(state, tuple) else (state,):
        for key, value in _pairs(part):
            if key == "formula" and isinstance(value, str):
                rest = re.sub(r"\b(C|I|Q|bs|cr|cc|te|scale|center|standardize|Treatment|Sum|Poly|np\.\w+)\(", "", value)
                if "(" in re.sub(r"(^|[\s~+\-*/:,(])\(", "", rest) or "__" in value or "[" in value:
                    raise WalkError(f"the formula {value!r}, which loading would run")


_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(
        [
            "INT",
            "BININT",
            "BININT1",
            "BININT2",
            "LONG",
            "LONG1",
            "LONG4",
            "STRING",
            "BINSTRING",
            "SHORT_BINSTRING",
            "BINBYTES",
            "SHORT_BINBYTES",
            "BINBYTES8",
            "BYTEARRAY8",
            "UNICODE",
            "SHORT_BINUNICODE",
            "BINUNICODE",
            "BINUNICODE8",
            "FLOAT",
            "BINFLOAT",
            "NONE",
        ]
    ),
    "NEWTRUE": True,
    "NEWFALSE": False,
}
_MEMO_PUT = frozenset(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"))
_MEMO_GET = frozenset(("GET", "BINGET", "LONG_BINGET"))
_STRUCTURE = frozenset(
    [
        "MARK",
        "POP",
        "POP_MARK",
        "DUP",
        "TUPLE",
        "EMPTY_TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "EMPTY_LIST",
        "EMPTY_DICT",
        "EMPTY_SET",
        "LIST",
        "DICT",
        "FROZENSET",
        "APPEND",
        "APPENDS",
        "SETITEM",
        "SETITEMS",
        "ADDITEMS",
    ]
)
_CLOUDPICKLE = frozenset(
    [
        "_builtin_type",
        "subimport",
        "_make_function",
        "_function_setstate",
        "_make_skeleton_class",
        "_make_skeleton_enum",
        "_class_setstate",
        "_make_cell",
        "_make_empty_cell",
        "_make_typevar",
        "_make_dict_keys",
        "_make_dict_values",
        "_make_dict_items",
        "_get_dataclass_field_type_sentinel",
        "_empty_cell_value",
    ]
)
_REBUILD = frozenset(
    (
        ("copyreg", "_reconstructor"),
        ("copyreg", "__newobj__"),
        ("copyreg", "__newobj_ex__"),
        ("_codecs", "encode"),
        ("builtins", "getattr"),
    )
)
_IMPORTABLE = frozenset(("mlflow", "joblib", "onnxruntime", "cloudpickle", "pyarrow", "yaml", "packaging"))
