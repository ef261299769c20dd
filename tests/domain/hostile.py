"""A corpus of hostile pickles; each names what it is after.

``live`` payloads touch the file ``trace`` when the library's own unpickler loads them, which proves that they
would do harm; the others are after memory, time, the stack of calls, or the methods of our classes.
"""

import cProfile
import os
import pickle
import struct
import subprocess
import timeit
from typing import NamedTuple

from tests.domain.assembler import (
    ARRAY,
    BUFFER,
    FALSE,
    LINEAR,
    MINUS,
    NEW,
    NONE,
    ONE,
    PARTIAL,
    RANDOM,
    SCALER,
    TRUE,
    Bomb,
    bound,
    built,
    called,
    dtype,
    mapped,
    named,
    number,
    text,
    tupled,
    whole,
)


class Payload(NamedTuple):
    name: str
    data: bytes
    live: bool = False


def live(trace):
    """Payloads that run code when the library's unpickler loads them."""
    touch = f"touch {trace}"
    write = f"open({trace!r}, 'w').close()"
    bombs = {
        "os.system": Bomb(os.system, touch),
        "exec": Bomb(exec, write),
        "eval": Bomb(eval, write),
        "open for writing": Bomb(open, trace, "w"),
        "os.mkdir": Bomb(os.mkdir, trace),
        "subprocess": Bomb(subprocess.check_call, ["touch", trace]),
        "timeit": Bomb(timeit.timeit, "1", write),
        "getoutput": Bomb(subprocess.getoutput, touch),
        "profile": Bomb(cProfile.run, write, trace),
        "pickle in a pickle": Bomb(pickle.loads, pickle.dumps(Bomb(exec, write))),
    }
    for name, bomb in bombs.items():
        for protocol in (0, 2, 4, 5):
            yield Payload(f"{name}, protocol {protocol}", pickle.dumps(bomb, protocol=protocol), live=True)
            inside = {"weights": [1.0, (bomb,)]}
            yield Payload(f"{name} inside, protocol {protocol}", pickle.dumps(inside, protocol=protocol), live=True)
    for module, name in [("river.datasets.base", "os.system"), ("river.datasets.base", "shutil.os.system")]:
        yield Payload(f"{module}: {name}", whole(called(named(module, name), text(touch))), live=True)
        by_getattr = called(
            named("builtins", "getattr"), named(module, name.rpartition(".")[0]), text(name.rpartition(".")[2])
        )
        yield Payload(f"getattr {module}: {name}", whole(called(by_getattr, text(touch))), live=True)
    shell = named("posix", "system")
    through_partial = called(PARTIAL, shell)
    yield Payload("a partial of the shell, called", whole(called(through_partial, text(touch))), live=True)
    swapped = built(called(PARTIAL, named("builtins", "int")), tupled(shell, tupled(text(touch)), b"}", NONE))
    yield Payload("a partial made into another, called", whole(called(swapped)), live=True)
    missing = called(
        named("builtins", "getattr"), called(named("collections", "defaultdict"), swapped), text("__missing__")
    )
    yield Payload("a default factory that is a partial of the shell", whole(called(missing, ONE)), live=True)
    poisoned = built(LINEAR, tupled(NONE, mapped(__setstate__=shell)))
    back = built(LINEAR, tupled(NONE, mapped(__setstate__=named("builtins", "print"))))
    yield Payload(
        "a class given the shell for __setstate__",
        whole(b"](" + poisoned + LINEAR + NEW + text(touch) + b"b" + back + b"e"),
        live=True,
    )
    yield Payload("INST", f"(S'{touch}'\nios\nsystem\n.".encode(), live=True)
    yield Payload("OBJ", b"(cos\nsystem\n" + text(touch) + b"o.", live=True)
    yield Payload("GLOBAL", f"cos\nsystem\n(S'{touch}'\ntR.".encode(), live=True)
    yield Payload("behind an honest object", whole(b"](" + SCALER + NEW + called(shell, text(touch)) + b"e"), live=True)
    yield Payload("as a key", whole(b"}" + called(shell, text(touch)) + ONE + b"s"), live=True)
    yield Payload("as a state", whole(SCALER + NEW + mapped(x=called(shell, text(touch))) + b"b"), live=True)


def poisons():
    """Payloads after our classes, functions and shared objects."""
    method = named("river.naive_bayes.gaussian", "GaussianNB._make_gaussian")
    for target, thing in {"class": LINEAR, "function": method, "builtin": named("builtins", "dict")}.items():
        for state in (
            mapped(learn_one=named("builtins", "dict")),
            tupled(NONE, mapped(learn_one=named("builtins", "dict"))),
        ):
            yield Payload(f"BUILD on a {target} {len(state)}", whole(built(thing, state)))
    for name in ("__code__", "__defaults__", "__class__", "__dict__", "__globals__"):
        yield Payload(f"BUILD {name} of a function", whole(built(method, tupled(NONE, mapped(**{name: NONE})))))
    for name in ("__class__", "__dict__", "__setstate__", "__reduce__", "__deepcopy__", "__call__"):
        for state in (mapped(**{name: LINEAR}), tupled(NONE, mapped(**{name: LINEAR}))):
            yield Payload(f"BUILD {name} of an estimator {len(state)}", whole(built(LINEAR + NEW, state)))
    for name in ("learn_one", "_no_such_slot"):
        yield Payload(f"a slot that is none: {name}", whole(built(LINEAR + NEW, tupled(NONE, mapped(**{name: ONE})))))
    yield Payload("a state under numbers", whole(built(LINEAR + NEW, b"}" + ONE + ONE + b"s")))
    yield Payload("a state that is a list", whole(built(LINEAR + NEW, b"]")))
    yield Payload(
        "a class of classes",
        whole(named("river.base.estimator", "EstimatorMeta") + tupled(text("x"), b")", b"}") + b"\x81"),
    )
    yield Payload("append to an estimator", whole(LINEAR + NEW + ONE + b"a"))
    yield Payload("set an item of a class", whole(LINEAR + ONE + ONE + b"s"))
    yield Payload("add to a list", whole(b"](" + ONE + b"\x90"))
    yield Payload("call an estimator's class", whole(called(LINEAR)))
    yield Payload(
        "call a function of River", whole(called(named("river.utils.math", "minkowski_distance"), b"}", b"}", ONE))
    )
    yield Payload("call deepcopy", whole(called(named("copy", "deepcopy"), b"]")))
    for name in ("list", "int", "str", "tuple", "frozenset", "complex", "dict", "set", "float", "bool"):
        yield Payload(f"call {name}", whole(called(named("builtins", name), text("1"))))
    for thing in ("dict", "list", "object"):
        yield Payload(f"NEWOBJ of {thing}", whole(named("builtins", thing) + NEW))
    yield Payload("NEWOBJ with arguments", whole(LINEAR + tupled(ONE) + b"\x81"))
    yield Payload("NEWOBJ_EX", whole(LINEAR + b")}\x92"))
    for name in (
        "__class__",
        "__reduce_ex__",
        "__dict__",
        "__init__",
        "__init_subclass__",
        "no_such_method",
        "_legacy",
    ):
        yield Payload(f"getattr {name}", whole(bound(LINEAR + NEW, name)))
        yield Payload(f"getattr {name} of the class", whole(bound(LINEAR, name)))
    yield Payload("getattr of a bound method", whole(bound(bound(LINEAR + NEW, "learn_one"), "__func__")))
    yield Payload("getattr of text", whole(bound(text("{0.__class__}"), "format")))
    yield Payload("getattr by number", whole(called(named("builtins", "getattr"), LINEAR + NEW, ONE)))
    yield Payload("getattr with a default", whole(called(named("builtins", "getattr"), LINEAR + NEW, text("x"), ONE)))
    yield Payload(
        "copyreg", whole(called(named("copyreg", "_reconstructor"), LINEAR, named("builtins", "object"), NONE))
    )
    yield Payload("copyreg.__newobj__", whole(called(named("copyreg", "__newobj__"), LINEAR)))


def memory():
    """Payloads after arrays of raw pointers, words behind an array's end, and all the memory there is."""
    shape = tupled(number(2**40))
    yield Payload("objects out of bytes", whole(called(BUFFER, b"C\x08AAAAAAAA", dtype("O8"), tupled(ONE), text("C"))))
    yield Payload(
        "objects out of bytes, flags cleared",
        whole(called(BUFFER, b"C\x08AAAAAAAA", dtype("O8", order="|"), tupled(ONE), text("C"))),
    )
    nested = pickle.dumps(Bomb(os.system, "true"))
    array_of_pickles = built(
        called(ARRAY, named("numpy", "ndarray"), tupled(b"K\x00"), b"C\x01b"),
        tupled(
            ONE,
            tupled(ONE),
            dtype("O8", order="|", flags=b"K\x3f"),
            FALSE,
            b"](B" + struct.pack("<I", len(nested)) + nested + b"e",
        ),
    )
    yield Payload("an object array with a pickle", whole(array_of_pickles))
    for kind in ("V8", "U1000000", "S999999999", "M8", "O", "f16", "c16", ">f8", "f8,f8", "object", "(1000,1000)f8"):
        yield Payload(f"dtype {kind}", whole(dtype(kind)))
    yield Payload("dtype with other flags", whole(dtype("f8", flags=b"K\x3f")))
    yield Payload("dtype of another order", whole(dtype("f8", order=">")))
    yield Payload("dtype with fields", whole(dtype("f8", fields=tupled(text("a")))))
    yield Payload(
        "dtype of True",
        whole(
            built(
                called(named("numpy", "dtype"), text("f8"), FALSE, TRUE),
                tupled(b"K\x03", text("<"), NONE, NONE, NONE, MINUS, MINUS, FALSE),
            )
        ),
    )
    yield Payload("an enormous array", whole(called(BUFFER, b"C\x08AAAAAAAA", dtype("f8"), shape, text("C"))))
    yield Payload("a negative array", whole(called(BUFFER, b"C\x08AAAAAAAA", dtype("f8"), tupled(MINUS), text("C"))))
    yield Payload(
        "an array that overflows",
        whole(called(BUFFER, b"C\x08AAAAAAAA", dtype("f8"), tupled(number(2**62), number(2**2)), text("C"))),
    )
    yield Payload(
        "an array of many axes", whole(called(BUFFER, b"C\x08AAAAAAAA", dtype("f8"), tupled(*[ONE] * 5000), text("C")))
    )
    yield Payload("an enormous array, reconstructed", whole(called(ARRAY, named("numpy", "ndarray"), shape, b"C\x01b")))
    yield Payload("an array of another class", whole(called(ARRAY, LINEAR, tupled(b"K\x00"), b"C\x01b")))
    yield Payload(
        "an enormous array by state",
        whole(
            built(
                called(ARRAY, named("numpy", "ndarray"), tupled(b"K\x00"), b"C\x01b"),
                tupled(ONE, shape, dtype("f8"), FALSE, b"C\x08AAAAAAAA"),
            )
        ),
    )
    yield Payload("ndarray called", whole(called(named("numpy", "ndarray"), shape)))
    yield Payload(
        "a scalar of too few bytes", whole(called(named("numpy._core.multiarray", "scalar"), dtype("f8"), b"C\x04AAAA"))
    )
    yield Payload(
        "a scalar object", whole(called(named("numpy._core.multiarray", "scalar"), dtype("O8"), b"C\x08AAAAAAAA"))
    )


def sizes():
    """Payloads that claim, or build, far more than they are."""
    for opcode in (b"B", b"X", b"T"):
        yield Payload(f"{opcode} of 4 GiB", whole(opcode + b"\xff\xff\xff\x7f"))
    for opcode in (b"\x8e", b"\x8d", b"\x96"):
        yield Payload(f"{opcode} of 2**62", whole(opcode + struct.pack("<Q", 2**62)))
    yield Payload("LONG4 of 2 GiB", whole(b"\x8b\xff\xff\xff\x7f"))
    yield Payload("LONG4 of 1 MiB", whole(b"\x8b" + struct.pack("<I", 1 << 20) + b"\x7f" * (1 << 20)))
    yield Payload("LONG of many digits", whole(b"I" + b"9" * 1_000_000 + b"\n"))
    yield Payload("a frame of 2**62", b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.x")
    yield Payload("a memo at 2**32", whole(b"Nr\xff\xff\xff\xff"))
    yield Payload("a memo that is not there", whole(b"h\x07"))
    yield Payload("a text times a number", whole(called(named("operator", "mul"), text("x"), number(2**40))))
    yield Payload("bytearray of a length", whole(called(named("builtins", "bytearray"), number(2**40))))
    yield Payload("bytes of a length", whole(called(named("builtins", "bytes"), number(2**40))))
    yield Payload(
        "range as a list", whole(called(named("builtins", "list"), called(named("builtins", "range"), number(2**40))))
    )
    yield Payload(
        "a deque of a range",
        whole(called(named("collections", "deque"), called(named("builtins", "range"), number(2**40)), NONE)),
    )
    yield Payload(
        "a native window",
        whole(
            named("river._river_rust.stats", "RsRollingQuantile")
            + tupled(b"G" + struct.pack(">d", 0.5), number(2**50))
            + b"\x81"
        ),
    )
    yield Payload(
        "many native windows",
        whole(
            b"]("
            + (
                named("river._river_rust.drift", "AdaptiveWindowing")
                + tupled(ONE, number(2**20), *[number(2**20)] * 3)
                + b"\x81"
            )
            * 200
            + b"e"
        ),
    )
    yield Payload(
        "a native state of nonsense",
        whole(named("river._river_rust.stats", "RsQuantile") + NEW + b"C\x10" + b"\xff" * 16 + b"b"),
    )
    yield Payload(
        "a native state of text", whole(named("river._river_rust.stats", "RsQuantile") + NEW + text("x") + b"b")
    )
    for name, code in {
        "lists": b"]",
        "dicts": b"}",
        "sets": b"\x8f",
        "marked lists": b"(l",
    }.items():
        yield Payload(f"a million {name}", whole(b"](" + code * 1_000_000 + b"e"))
    yield Payload("many generators", whole(b"](" + named("random", "Random") + b"\x94" + b"h\x00)R" * 100_000 + b"e"))
    yield Payload("many deques", whole(b"](" + named("collections", "deque") + b"\x94" + b"h\x00)R" * 100_000 + b"e"))
    yield Payload("many estimators", whole(b"](" + SCALER + b"\x94" + b"h\x00)\x81" * 500_000 + b"e"))


def generators():
    """Payloads after generators of random numbers that read behind their words."""
    key = called(BUFFER, b"\x96" + struct.pack("<Q", 2496) + bytes(2496), dtype("u4"), tupled(b"M\x70\x02"), text("C"))
    bits = called(named("numpy.random._pickle", "__bit_generator_ctor"), named("numpy.random._mt19937", "MT19937"))
    for name, position in {"behind the end": number(2**31 - 1), "before the start": MINUS, "True": TRUE}.items():
        state = mapped(bit_generator=text("MT19937"), state=mapped(key=key, pos=position))
        yield Payload(f"a twister that reads {name}", whole(built(bits, tupled(state, NONE))))
        held = called(named("numpy.random._pickle", "__randomstate_ctor"), bits)
        more = state[:-1] + text("has_gauss") + b"K\x00" + text("gauss") + b"G" + bytes(8) + b"u"
        yield Payload(f"a random state that reads {name}", whole(built(held, more)))
    yield Payload(
        "a twister of few words",
        whole(built(bits, tupled(mapped(bit_generator=text("MT19937"), state=mapped(key=b"]", pos=ONE)), NONE))),
    )
    yield Payload(
        "another bit generator", whole(called(named("numpy.random._pickle", "__bit_generator_ctor"), text("PCG64")))
    )
    words = tupled(*[ONE] * 624)
    yield Payload("a generator of few words", whole(built(RANDOM, tupled(b"K\x03", tupled(ONE), NONE))))
    yield Payload("a generator without a position", whole(built(RANDOM, tupled(b"K\x03", words, NONE))))
    yield Payload("a generator of version 2", whole(built(RANDOM, tupled(b"K\x02", words[:-1] + ONE + b"t", NONE))))
    yield Payload(
        "a generator that reads behind its end",
        whole(built(RANDOM, tupled(b"K\x03", words[:-1] + number(2**31 - 1) + b"t", NONE))),
    )
    yield Payload("a seeded generator", whole(called(named("random", "Random"), number(2**2000))))


def laughs():
    """Payloads after time and the stack of calls."""
    double = ONE + b"\x85\x94" + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86\x94" for i in range(60))
    yield Payload("a billion laughs as a key", whole(b"}(" + double + NONE + b"u"))
    yield Payload("a billion laughs in a set", whole(b"\x8f(" + double + b"\x90"))
    yield Payload("a billion laughs frozen", whole(b"(" + double + b"\x91"))
    deep = ONE + b"\x85" * 200_000
    yield Payload("a deep tuple as a key", whole(b"}" + deep + ONE + b"s"))
    yield Payload("brackets without end", whole(b"(" * 1_000_000 + b"t" * 1_000_000))
    yield Payload("a partial of a partial", whole(called(PARTIAL, called(PARTIAL, named("builtins", "int")))))
    inner = called(PARTIAL, named("builtins", "int")) + b"\x94" + tupled(b"h\x00", b")", b"}", NONE) + b"b"
    yield Payload("a partial of itself", whole(inner))
    yield Payload("a key that is a list", whole(b"}]" + ONE + b"s"))
    yield Payload("a key of 2040 bits", whole(b"}" + number(2**2000) + ONE + b"s"))
    yield Payload("a key that is an estimator", whole(b"}" + LINEAR + NEW + ONE + b"s"))
    for name, code in {
        "persistent id": b"Pthing\n",
        "binary persistent id": b"NQ",
        "EXT1": b"\x82\x01",
        "EXT2": b"\x83\x01\x00",
        "EXT4": b"\x84\x01\x00\x00\x00",
        "next buffer": b"\x97",
        "read-only buffer": b"N\x98",
        "PUT": b"Np0\n",
        "GET": b"Ng0\n",
        "DUP": b"N2",
        "POP": b"NN0",
        "POP_MARK": b"N(N1",
        "STRING": b"S'x'\n",
        "a name of numbers": ONE + ONE + b"\x93",
        "a name of nothing": NONE + text("x") + b"\x93",
        "a name that is a method": text("os") + LINEAR + NEW + b"\x93",
        "arguments that are a list": SCALER + b"]R",
        "a call of a number": ONE + b")R",
        "a call of a list": b"])R",
        "a stack that is empty": b"R",
        "a mark that is missing": b"t",
        "two results": b"NN",
        "no result": b"",
        "protocol 9": b"\x80\x09N",
        "an odd dictionary": b"}(N" + b"u",
        "text that is none": b"\x8c\x02\xff\xff",
    }.items():
        yield Payload(name, whole(code))
    yield Payload("something behind the end", whole(NONE) + b"N.")


def corpus(trace):
    return [*live(trace), *poisons(), *memory(), *sizes(), *generators(), *laughs()]
