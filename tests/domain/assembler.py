"""Pickles written opcode by opcode, as no pickler would."""


def text(value):
    encoded = value.encode()
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def number(value):
    size = max(1, (value.bit_length() + 8) // 8)
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def tupled(*items):
    return b"(" + b"".join(items) + b"t"


def named(module, name):
    """The opcodes that push ``module.name``, dotted names and all."""
    return text(module) + text(name) + b"\x93"


def called(function, *arguments):
    return function + tupled(*arguments) + b"R"


def bound(thing, name):
    return called(named("builtins", "getattr"), thing, text(name))


def built(thing, state):
    return thing + state + b"b"


def mapped(**items):
    return b"}(" + b"".join(text(name) + value for name, value in items.items()) + b"u"


def whole(code):
    return b"\x80\x04" + code + b"."


class Bomb:
    def __init__(self, function, *arguments):
        self.code = function, arguments

    def __reduce__(self):
        return self.code


SCALER = named("river.preprocessing.scale", "StandardScaler")
LINEAR = named("river.linear_model.lin_reg", "LinearRegression")
PARTIAL = named("functools", "partial")
ARRAY = named("numpy._core.multiarray", "_reconstruct")
BUFFER = named("numpy._core.numeric", "_frombuffer")
RANDOM = called(named("random", "Random"))
NEW = b")\x81"
NONE, TRUE, FALSE, ONE = b"N", b"\x88", b"\x89", b"K\x01"
MINUS = b"J\xff\xff\xff\xff"


def dtype(kind, *, order="<", flags=b"K\x00", fields=NONE):
    made = called(named("numpy", "dtype"), text(kind), FALSE, TRUE)
    return built(made, tupled(b"K\x03", text(order), NONE, fields, fields, MINUS, MINUS, flags))
