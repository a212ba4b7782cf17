"""Compressors written in Python, in the same chain as Hora's own.

    import numpy as np
    from hora import compression

    class Halves(compression.Compressor):
        '''Values as IEEE halves.'''

        def payload_bytes(self, count):
            return 2 * count

        def encode(self, values, payload, step):
            payload.view(np.float16)[:] = values

        def decode(self, payload, values, step):
            values[:] = payload.view(np.float16)

    compression.register(Halves)
    hora.torch.DistributedOptimizer(sgd, net.named_parameters(), compression="ef+halves")

Everything around the numbers stays in C++: error feedback, framing, the exchange, NaN and Inf,
saving. docs/new_compressor.md leads through an example.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import threading
import traceback
import types
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from hora import _native


class Step(NamedTuple):
    """What a compressor may know of an exchange besides the numbers."""

    number: int  #: exchanges of this tensor before this one; equal on all ranks
    rank: int
    size: int
    second: bool  #: an owner encodes the sum of all ranks, not a rank its gradient
    seed: int
    tensor: int  #: a number made of the tensor's name; equal on all ranks

    def generator(self) -> np.random.Generator:
        """Random numbers of this rank, tensor and exchange; the same in every run of one seed."""
        return self._drawn_by(self.size if self.second else self.rank)

    def shared_generator(self) -> np.random.Generator:
        """Random numbers that all ranks draw alike, in `encode` and in `decode`."""
        return self._drawn_by(self.size + 1)

    def _drawn_by(self, drawer: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.tensor, self.number, drawer))


class Compressor(ABC):
    """Numbers to bytes and back, for any tensor.

    What `__init__` takes, all with default values, are the keys of the chain's stage:
    `def __init__(self, ratio: float = 0.01)` makes `mycomp:ratio=1%` possible. One object serves
    all tensors and both ends of an exchange, so it keeps nothing between calls: what a step did
    not send is kept by the chain's memory (`ef+mycomp`), as p - decode(encode(p)).

    Arrays are views of memory that is used again after the call: copy what you need to keep. They
    are NumPy's; `torch.from_numpy(values)` is a tensor on the same memory. A tensor always comes as
    a whole, flat, in float32 and finite: where something is NaN or Inf, Hora tells all ranks so
    without asking you.

    Threads: one at a time in each rank, under the interpreter's lock, usually not the main one.
    Errors: an exception ends the operation with an error that is the same on all ranks; the job
    goes on.
    """

    #: The mean of decode(encode(x)) over draws is x. Then a chain may do without a memory.
    unbiased: ClassVar[bool] = False
    #: |x - decode(encode(x))| < |x| for all x but 0: what error feedback needs.
    contractive: ClassVar[bool] = False
    #: What is sent is sent exactly: selections of float32 values.
    exact_values: ClassVar[bool] = False
    #: A few elements of many: every rank gets every payload. Otherwise sums are encoded again.
    sparse: ClassVar[bool] = False
    #: Draws random numbers.
    random: ClassVar[bool] = False
    #: What ranks compare to see that they run the same code; None: the text of the class. Say it
    #: when the class calls functions that may change, and change it when they do.
    version: ClassVar[str | None] = None

    @abstractmethod
    def payload_bytes(self, count: int) -> int:
        """How many bytes `encode` makes of `count` elements, at least 1. Depends on nothing else: a
        compressor that selects writes how much it has used into the payload."""

    @abstractmethod
    def encode(self, values: np.ndarray, payload: np.ndarray, step: Step) -> None:
        """Writes `values` (float32, read only) to `payload` (uint8, zeros, aligned to 8)."""

    @abstractmethod
    def decode(self, payload: np.ndarray, values: np.ndarray, step: Step) -> None:
        """Writes what `payload` (uint8, read only, aligned to 8) says to `values` (float32, zeros).

        Errors: ValueError for bytes that `encode` cannot have written, before anything is read
        beyond its end.
        """


#: What may be the standard value of a key, and how its text becomes a value.
_KINDS: dict[type, Any] = {
    bool: lambda text: {"true": True, "1": True, "false": False, "0": False}[text],
    int: lambda text: int(text) if re.fullmatch(r"[+-]?\d+", text) else _whole(float(text)),
    float: float,
    str: str,
}


def _whole(number: float) -> int:
    if number != int(number):
        raise ValueError
    return int(number)


def _keys_of(kind: type[Compressor]) -> dict[str, Any]:
    """The parameters of `__init__` and their standard values."""
    keys = {}
    for parameter in list(inspect.signature(kind.__init__).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            if kind.__init__ is object.__init__:
                continue
            raise TypeError(f"{kind.__name__}.__init__ takes {parameter}: name the keys instead")
        if type(parameter.default) not in _KINDS:
            raise TypeError(
                f"{kind.__name__}.__init__: the parameter {parameter.name!r} needs a number, a "
                "bool or a text as its default value, since it becomes a key of the chain"
            )
        keys[parameter.name] = parameter.default
    if "code" in keys:
        raise TypeError(f"{kind.__name__}.__init__: the key 'code' is Hora's own; rename it")
    return keys


def _words_of(code: types.CodeType) -> str:
    """What a function does, without where it stands."""
    consts = [
        _words_of(const) if isinstance(const, types.CodeType) else repr(const)
        for const in code.co_consts
    ]
    return repr((code.co_code, code.co_names, consts))


def _code_of(kind: type[Compressor]) -> str:
    """Names a compressor's code: the same on ranks with the same code."""
    if kind.version is not None:
        if not re.fullmatch(r"[\w.-]+", kind.version):
            raise ValueError(f"version {kind.version!r} may have letters, digits, '_', '.' and '-'")
        return "v" + kind.version
    text = ""
    for part in kind.__mro__:
        if part in (Compressor, ABC, object):
            continue
        try:
            text += inspect.getsource(part)
        except (OSError, TypeError):  # typed into the interpreter, or python -c
            for name, member in sorted(vars(part).items()):
                if isinstance(member, types.FunctionType):
                    text += name + _words_of(member.__code__)
    return "h" + hashlib.sha256(text.encode()).hexdigest()[:12]


def _text_of(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _describe(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" ({frame.filename}:{frame.lineno})" for frame in last)
    return "".join(traceback.format_exception_only(error)).strip() + place


class _Calls:
    """What the engine calls: a compressor, whose exceptions become text."""

    def __init__(self, name: str, compressor: Compressor) -> None:
        self.name = name
        self.compressor = compressor
        for trait in ("unbiased", "contractive", "exact_values", "sparse", "random"):
            setattr(self, trait, bool(getattr(compressor, trait)))

    def payload_bytes(self, count: int) -> int:
        bytes_ = self.compressor.payload_bytes(count)
        if not isinstance(bytes_, int) or bytes_ < 1:
            raise ValueError(
                f"payload_bytes({count}) gives {bytes_!r}; it must be a whole number, at least 1"
            )
        return bytes_

    def encode(self, values: memoryview, payload: memoryview, step: tuple[Any, ...]) -> str | None:
        return self._call(self.compressor.encode, values, np.float32, payload, np.uint8, step)

    def decode(self, payload: memoryview, values: memoryview, step: tuple[Any, ...]) -> str | None:
        return self._call(self.compressor.decode, payload, np.uint8, values, np.float32, step)

    def _call(self, method, read, read_type, written, written_type, step):  # type: ignore[no-untyped-def]
        lent = np.frombuffer(read, read_type), np.frombuffer(written, written_type)
        held = [sys.getrefcount(array) for array in lent]
        try:
            method(*lent, Step(*step))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                _again_in_the_main_thread()
            else:
                print(f"hora: compressor '{self.name}' on rank {step[1]}:", file=sys.stderr)
                traceback.print_exc()
            return _describe(error)
        # A view of an array has it as its base, so that this count tells of views, too.
        if [sys.getrefcount(array) for array in lent] != held:
            return (
                "it has kept an array that it was given, or a view of one; the memory is used "
                "again after the call, so keep a copy: array.copy()"
            )
        return None


def _again_in_the_main_thread() -> None:
    """Ctrl-C has hit a compressor, but is meant for whoever waits."""
    import _thread

    _thread.interrupt_main()


class _Registered(NamedTuple):
    kind: type[Compressor]
    code: str


_registered: dict[str, _Registered] = {}
_made: dict[tuple[Any, ...], _Calls] = {}  # for good: codecs refer to them
_lock = threading.Lock()


def register(kind: type[Compressor], name: str | None = None) -> str:
    """Makes `name` (the class's own, in small letters) a stage that chains may use; gives the name.

    Every rank registers before its first operation with such a chain, at best before `hora.init()`,
    which reads HORA_COMPRESSION. Ranks that have registered other code under the name get Mismatch,
    which names both. Registering the same again does nothing; other code under a name in use is
    possible while Hora is not initialized.

    Errors: ValueError for a name that is taken or no word; TypeError for a class that is no
    Compressor, or whose `__init__` has parameters without default values.
    """
    if not (isinstance(kind, type) and issubclass(kind, Compressor)):
        raise TypeError(f"{kind!r} is no subclass of hora.compression.Compressor")
    if missing := sorted(kind.__abstractmethods__):
        raise TypeError(f"{kind.__name__} has to define {', '.join(missing)}")
    name = name or kind.__name__.lower()
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"{name!r} is no name for a stage: small letters, digits and '_'")
    keys, code = _keys_of(kind), _code_of(kind)
    with _lock:
        known = _registered.get(name)
        if known is not None and known.code == code:
            return name
        if known is None and name in _native.stage_names():
            raise ValueError(f"'{name}' is the name of a stage or preset of Hora; choose another")
        if known is not None and _is_running():
            raise ValueError(
                f"'{name}' is registered with other code ({known.code}, not {code}), which may be "
                "in use: choose another name, or call hora.shutdown() first"
            )
        rows = [(key, _text_of(value), "see its class") for key, value in keys.items()]
        what = (inspect.getdoc(kind) or name).splitlines()[0] + " (Python)"
        rows.append(("code", code, "names the code, which must be the same on all ranks"))
        _native.add_compressor(
            name, what, rows, lambda values: _make(name, kind, code, keys, values)
        )
        _registered[name] = _Registered(kind, code)
    return name


def _is_running() -> bool:
    from hora import runtime

    return runtime.is_initialized()


def _make(
    name: str,
    kind: type[Compressor],
    code: str,
    keys: dict[str, Any],
    values: dict[str, str],
) -> _Calls | str:
    """The calls for a stage with these values, or why there are none."""
    if values["code"] != code:
        return f"code={values['code']} is not what this process has registered, {code}"
    which = (name, *values.items())
    if which in _made:
        return _made[which]
    arguments = {}
    for key, standard in keys.items():
        try:
            arguments[key] = _KINDS[type(standard)](values[key])
        except (ValueError, KeyError, OverflowError):
            return f"{key}={values[key]} is no {type(standard).__name__}"
    try:
        calls = _Calls(name, kind(**arguments))
    except Exception as error:
        return _describe(error) if not isinstance(error, ValueError) else str(error)
    return _made.setdefault(which, calls)


def chain_of(compressor: Compressor | type[Compressor]) -> str:
    """The chain that has this class with its standard keys, or this object's, and nothing else.

    An object's keys are its attributes of the same names. Registers the class if need be.
    """
    kind = compressor if isinstance(compressor, type) else type(compressor)
    name = register(kind)
    if isinstance(compressor, type):
        return name
    keys = []
    for key in _keys_of(kind):
        if not hasattr(compressor, key):
            raise TypeError(
                f"{kind.__name__} keeps no attribute {key!r}, so its chain is not known; write it "
                f'as text: "{name}:{key}=..."'
            )
        keys.append(f"{key}={_text_of(getattr(compressor, key))}")
    return name + (":" + ",".join(keys) if keys else "")
