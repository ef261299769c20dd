"""The strict unpickler for River estimators: a small machine that makes only what honest estimators are made of.

The unpickler of Python's library can be told which names to refuse, but not what to call with which arguments, nor
whose attributes to set: a class on the allow-list could be given other methods, a dtype other flags, and an array with
those takes any bytes for objects. So this one runs the opcodes itself, without any that pickles of estimators lack.
What may be named and called is in `domain.allowlist`, how objects come to life in `domain.revival`.
"""

from __future__ import annotations

import pickle
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

from domain.allowlist import call, find, key, refuse
from domain.errors import ArtifactRefused
from domain.revival import fill, make

MAX_BYTES = 256 << 20
"""Of one pickle; the largest forest measured has 22 MB."""

_FLOOR = 24 << 20
_PER_BYTE = 24
"""What may be built: 24 MiB and 24 bytes for each of the pickle's. Honest estimators need up to 20."""

_DEEPEST = 1000
"""Open brackets: the library's pickler cannot write more, for it would leave the stack of calls."""

_MAPPINGS = {dict, defaultdict, OrderedDict, Counter}
_FLOAT = struct.Struct(">d")


class _Machine:
    """The opcodes, one method each, in the order of the protocol's own list."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.left = _FLOOR + _PER_BYTE * len(data)
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: list[Any] = []

    def run(self) -> Any:  # noqa: ANN401
        data, steps, stop = self.data, _STEPS, pickle.STOP[0]
        while (code := data[self.at]) != stop:
            self.at += 1
            steps[code](self)
        (made,) = self.stack
        if self.outer or self.at + 1 != len(data):
            raise refuse("goes on behind its end")
        return made

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise refuse("builds far more than its size")

    def take(self, size: int) -> bytes:
        start, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise refuse("is cut off")
        return self.data[start : self.at]

    def number(self, size: int) -> int:
        if size == 1:
            self.at += 1
            return self.data[self.at - 1]
        return int.from_bytes(self.take(size), "little")

    def marked(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def push(self, value: object, size: int) -> None:
        self.spend(size)
        self.stack.append(value)

    def proto(self) -> None:
        if self.number(1) not in {4, 5}:
            raise refuse("is of an old protocol")

    def frame(self) -> None:
        self.take(8)

    def mark(self) -> None:
        if len(self.outer) >= _DEEPEST:
            raise refuse("is nested too deep")
        self.spend(16)
        self.outer.append(self.stack)
        self.stack = []

    def binint(self) -> None:
        self.stack.append(int.from_bytes(self.take(4), "little", signed=True))

    def long(self) -> None:
        self.stack.append(int.from_bytes(self.take(self.number(1)), "little", signed=True))

    def float(self) -> None:
        self.stack.append(_FLOAT.unpack_from(self.data, self.at)[0])
        self.at += 8

    def binint1(self) -> None:
        self.stack.append(self.data[self.at])
        self.at += 1

    def text(self, width: int) -> None:
        self.stack.append(str(self.take(self.number(width)), "utf-8", "surrogatepass"))

    def bytes(self, width: int) -> None:
        self.stack.append(self.take(self.number(width)))

    def bytearray(self) -> None:
        self.stack.append(bytearray(self.take(self.number(8))))

    def tuple(self, count: int) -> None:
        stack = self.stack
        if len(stack) < count:
            raise refuse("takes what is not there")
        self.spend(40 + 8 * count)
        stack[-count:] = [tuple(stack[-count:])]

    def tuple_of_marked(self) -> None:
        items = self.marked()
        self.push(tuple(items), 40 + 8 * len(items))

    def append(self) -> None:
        item = self.stack.pop()
        self._extend([item])

    def appends(self) -> None:
        self._extend(self.marked())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in {list, deque}:
            raise refuse("appends to what is no list")
        self.spend(8 * len(items))
        target.extend(items)

    def setitem(self) -> None:
        value = self.stack.pop()
        self._update([self.stack.pop(), value])

    def setitems(self) -> None:
        self._update(self.marked())

    def _update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        keys, values = items[::2], items[1::2]
        if type(target) not in _MAPPINGS or len(keys) != len(values) or not all(map(key, keys)):
            raise refuse("puts into what is no dictionary, or under what is no key")
        self.spend(100 * len(keys))
        for name, value in zip(keys, values, strict=True):
            target[name] = value

    def additems(self) -> None:
        items = self.marked()
        if type(self.stack[-1]) is not set:
            raise refuse("adds to what is no set")
        self.spend(70 * len(items))
        self.stack[-1].update(filter(_member, items))

    def frozenset(self) -> None:
        items = self.marked()
        self.push(frozenset(filter(_member, items)), 216 + 70 * len(items))

    def memoize(self) -> None:
        self.memo.append(self.stack[-1])

    def binget(self) -> None:
        self.stack.append(self.memo[self.data[self.at]])
        self.at += 1

    def long_binget(self) -> None:
        self.stack.append(self.memo[self.number(4)])

    def name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(module) is not str or type(name) is not str:
            raise refuse("names something without words")
        self.stack.append(find(module, name))

    def reduce(self) -> None:
        arguments, callee = self.stack.pop(), self.stack.pop()
        known = call(callee)
        if type(arguments) is not tuple:
            raise refuse("calls with something else than arguments")
        self.push(known.work(*arguments), known.cost)

    def newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        made = make(kind, arguments)
        self.push(made, 150 + 16 * sum(int(n) for n in arguments if type(n) is int))

    def build(self) -> None:
        state = self.stack.pop()
        fill(self.stack[-1], state)

    def refused(self) -> None:
        raise refuse(f"has the opcode {self.data[self.at - 1]:#04x} at {self.at - 1}, which no estimator needs")


def _member(item: object) -> bool:
    if not key(item):
        raise refuse("has a set of what cannot be a member")
    return True


_OPCODES: dict[bytes, Callable[[_Machine], None]] = {
    pickle.PROTO: _Machine.proto,
    pickle.FRAME: _Machine.frame,
    pickle.MARK: _Machine.mark,
    pickle.NONE: lambda m: m.stack.append(None),
    pickle.NEWTRUE: lambda m: m.stack.append(True),
    pickle.NEWFALSE: lambda m: m.stack.append(False),
    pickle.BININT: _Machine.binint,
    pickle.BININT1: _Machine.binint1,
    pickle.BININT2: lambda m: m.stack.append(m.number(2)),
    pickle.LONG1: _Machine.long,
    pickle.BINFLOAT: _Machine.float,
    pickle.SHORT_BINUNICODE: lambda m: m.text(1),
    pickle.BINUNICODE: lambda m: m.text(4),
    pickle.SHORT_BINBYTES: lambda m: m.bytes(1),
    pickle.BINBYTES: lambda m: m.bytes(4),
    pickle.BYTEARRAY8: _Machine.bytearray,
    pickle.EMPTY_TUPLE: lambda m: m.stack.append(()),
    pickle.TUPLE1: lambda m: m.tuple(1),
    pickle.TUPLE2: lambda m: m.tuple(2),
    pickle.TUPLE3: lambda m: m.tuple(3),
    pickle.TUPLE: _Machine.tuple_of_marked,
    pickle.EMPTY_LIST: lambda m: m.push([], 64),
    pickle.APPEND: _Machine.append,
    pickle.APPENDS: _Machine.appends,
    pickle.EMPTY_DICT: lambda m: m.push({}, 72),
    pickle.SETITEM: _Machine.setitem,
    pickle.SETITEMS: _Machine.setitems,
    pickle.EMPTY_SET: lambda m: m.push(set(), 216),
    pickle.ADDITEMS: _Machine.additems,
    pickle.FROZENSET: _Machine.frozenset,
    pickle.MEMOIZE: _Machine.memoize,
    pickle.BINGET: _Machine.binget,
    pickle.LONG_BINGET: _Machine.long_binget,
    pickle.STACK_GLOBAL: _Machine.name,
    pickle.REDUCE: _Machine.reduce,
    pickle.NEWOBJ: _Machine.newobj,
    pickle.BUILD: _Machine.build,
}
_STEPS = [_OPCODES.get(bytes([code]), _Machine.refused) for code in range(256)]


def load(data: bytes) -> Any:  # noqa: ANN401
    """Return the object in ``data``.

    Raises
    ------
    ArtifactRefused
        When the pickle asks for anything that an honest River estimator does not need, or is damaged.

    Notes
    -----
    Nothing is executed but constructors and states named in `domain.allowlist`; memory stays below a multiple of the
    pickle's size. What River makes of a well-formed but hostile state later is not covered: signatures are for that.
    """
    if len(data) > MAX_BYTES:
        raise refuse(f"has {len(data)} bytes, more than {MAX_BYTES}")
    try:
        return _Machine(data).run()
    except ArtifactRefused:
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of River's native part is no Exception
        raise ArtifactRefused(f"pickle is damaged ({type(error).__name__}: {error}); use another version") from error


def dump(obj: object) -> bytes:
    """Return the object as a pickle that ``load`` accepts."""
    return pickle.dumps(obj, protocol=5)


def copy(obj: object) -> Any:  # noqa: ANN401
    """Return an equal object that shares nothing with this one; the bytes never leave the process."""
    return pickle.loads(dump(obj))  # noqa: S301
