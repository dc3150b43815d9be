"""The programs that simulated containers can run, by name; tests and providers may add their own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from vkprovider.backends.memory.process import FOREVER_S, Process, Program, Read, Run, Signal, Sleep, Write
from vkprovider.backends.memory.shell import find_signal, run_shell

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([smhd]?)")
_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "a": "\a", "b": "\b", "0": "\0"}


def parse_sleep(args: Sequence[str]) -> float | None:
    """Seconds that ``sleep`` with these arguments takes, or None if it refuses them."""
    total = 0.0
    for arg in args:
        if arg in ("infinity", "inf"):
            total = FOREVER_S
            continue
        match = _DURATION.fullmatch(arg)
        if match is None:
            return None
        total += float(match.group(1)) * _UNITS_S[match.group(2)]
    return total if args else None


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match.group(1), match.group(0)), text)


def _true(process: Process) -> Run:
    yield from ()
    return 0


def _false(process: Process) -> Run:
    yield from ()
    return 1


def _sleep(process: Process) -> Run:
    seconds = parse_sleep(process.argv[1:])
    if seconds is None:
        yield Write(f"sleep: invalid number '{' '.join(process.argv[1:])}'\n".encode(), stderr=True)
        return 1
    yield Sleep(seconds)
    return 0


def _echo(process: Process) -> Run:
    args = list(process.argv[1:])
    newline, escapes = True, False
    while args and re.fullmatch(r"-[neE]+", args[0]):
        flags = args.pop(0)
        newline = newline and "n" not in flags
        escapes = (escapes or "e" in flags) and "E" not in flags
    text = " ".join(args)
    yield Write(((_unescape(text) if escapes else text) + ("\n" if newline else "")).encode())
    return 0


def _printf(process: Process) -> Run:
    if len(process.argv) < 2:
        yield Write(b"printf: usage: printf FORMAT [ARG]...\n", stderr=True)
        return 1
    template, args = _unescape(process.argv[1]), list(process.argv[2:])
    text = ""
    while True:
        text += re.sub(
            r"%([sd%])", lambda match: "%" if match.group(1) == "%" else (args.pop(0) if args else ""), template
        )
        if not args or not re.search(r"%[sd]", template):
            break
    yield Write(text.encode())
    return 0


def _cat(process: Process) -> Run:
    code = 0
    for name in process.argv[1:] or ("-",):
        if name == "-":
            while data := (yield Read()):
                yield Write(data)
            continue
        try:
            data = process.files.read(process.resolve(name))
        except OSError as error:
            yield Write(f"cat: can't open '{name}': {error.strerror}\n".encode(), stderr=True)
            code = 1
            continue
        if data:
            yield Write(data)
    return code


def _head(process: Process) -> Run:
    count, argv = 10, list(process.argv[1:])
    if argv[:1] == ["-n"] and len(argv) > 1 and argv[1].isdigit():
        count, argv = int(argv[1]), argv[2:]
    for name in argv:
        try:
            data = process.files.read(process.resolve(name))
        except OSError as error:
            yield Write(f"head: {name}: {error.strerror}\n".encode(), stderr=True)
            return 1
        yield Write(b"".join(data.splitlines(keepends=True)[:count]))
    return 0


def _tail(process: Process) -> Run:
    argv = [arg for arg in process.argv[1:] if arg not in ("-f", "-F")]
    for name in argv:
        if name.startswith("-"):
            continue
        try:
            data = process.files.read(process.resolve(name))
        except OSError as error:
            yield Write(f"tail: can't open '{name}': {error.strerror}\n".encode(), stderr=True)
            return 1
        if data:
            yield Write(b"".join(data.splitlines(keepends=True)[-10:]))
    if len(argv) < len(process.argv) - 1:  # it follows: nothing is ever added here
        yield Sleep(FOREVER_S)
    return 0


def _touch(process: Process) -> Run:
    for name in process.argv[1:]:
        try:
            process.files.write(process.resolve(name), b"", append=True)
        except OSError as error:
            yield Write(f"touch: {name}: {error.strerror}\n".encode(), stderr=True)
            return 1
    return 0


def _rm(process: Process) -> Run:
    force, code = False, 0
    for name in process.argv[1:]:
        if name.startswith("-"):
            force = force or "f" in name
            continue
        try:
            process.files.remove(process.resolve(name))
        except OSError as error:
            if not force:
                yield Write(f"rm: can't remove '{name}': {error.strerror}\n".encode(), stderr=True)
                code = 1
    return code


def _ls(process: Process) -> Run:
    names = [arg for arg in process.argv[1:] if not arg.startswith("-")] or ["."]
    for name in names:
        path = process.resolve(name)
        try:
            entries = [name] if process.files.is_file(path) else process.files.list_dir(path)
        except OSError as error:
            yield Write(f"ls: {name}: {error.strerror}\n".encode(), stderr=True)
            return 1
        if entries:
            yield Write("".join(f"{entry}\n" for entry in entries).encode())
    return 0


def _check(process: Process, args: list[str]) -> bool:
    files = process.files
    match args:
        case ["!", *rest]:
            return not _check(process, rest)
        case ["-f", path]:
            return files.is_file(process.resolve(path))
        case ["-e", path]:
            return files.exists(process.resolve(path))
        case ["-d", path]:
            return files.is_dir(process.resolve(path))
        case ["-s", path]:
            return files.is_file(process.resolve(path)) and bool(files.read(process.resolve(path)))
        case ["-z", text]:
            return not text
        case ["-n", text] | [text]:
            return bool(text)
        case [left, "=" | "==", right]:
            return left == right
        case [left, "!=", right]:
            return left != right
        case [left, ("-eq" | "-ne" | "-lt" | "-le" | "-gt" | "-ge") as op, right]:
            a, b = int(left), int(right)
            return {"-eq": a == b, "-ne": a != b, "-lt": a < b, "-le": a <= b, "-gt": a > b, "-ge": a >= b}[op]
        case []:
            return False
    raise ValueError(f"unknown operand in {' '.join(args)!r}")


def _test(process: Process) -> Run:
    args = list(process.argv[1:])
    if process.argv[0] == "[" and (not args or args.pop() != "]"):
        yield Write(b"sh: [: missing ]\n", stderr=True)
        return 2
    try:
        return 0 if _check(process, args) else 1
    except ValueError as error:
        yield Write(f"sh: {error}\n".encode(), stderr=True)
        return 2


def _env(process: Process) -> Run:
    argv = list(process.argv[1:])
    env = dict(process.env)
    while argv and "=" in argv[0]:
        name, _, value = argv.pop(0).partition("=")
        env[name] = value
    if argv:
        program = process.find_program(argv[0])
        if program is None:
            yield Write(f"env: can't execute '{argv[0]}': No such file or directory\n".encode(), stderr=True)
            return 127
        return (yield from program(process.child(argv, env)))
    yield Write("".join(f"{name}={value}\n" for name, value in env.items()).encode())
    return 0


def _printenv(process: Process) -> Run:
    names = process.argv[1:]
    if not names:
        return (yield from _env(process.child(["env"])))
    found = [process.env[name] for name in names if name in process.env]
    yield Write("".join(f"{value}\n" for value in found).encode())
    return 0 if len(found) == len(names) else 1


def _hostname(process: Process) -> Run:
    yield Write(f"{process.hostname}\n".encode())
    return 0


def _date(process: Process) -> Run:
    moment: datetime = process.now()
    layout = next((arg[1:] for arg in process.argv[1:] if arg.startswith("+")), "%a %b %e %H:%M:%S UTC %Y")
    yield Write((moment.strftime(layout) + "\n").encode())
    return 0


def _pwd(process: Process) -> Run:
    yield Write(f"{process.cwd}\n".encode())
    return 0


def _seq(process: Process) -> Run:
    try:
        numbers = [int(arg) for arg in process.argv[1:]]
        first, step, last = {1: (1, 1, numbers[0]), 2: (numbers[0], 1, numbers[-1])}.get(
            len(numbers), (numbers[0], numbers[1] if len(numbers) > 2 else 1, numbers[-1])
        )
        values = range(first, last + (1 if step > 0 else -1), step)
    except (ValueError, IndexError):
        yield Write(b"seq: needs one to three whole numbers\n", stderr=True)
        return 1
    for start in range(0, len(values), 1000):
        yield Write("".join(f"{value}\n" for value in values[start : start + 1000]).encode())
    return 0


def _kill(process: Process) -> Run:
    """``kill [-SIGNAL] 1``: only the container's first process can be meant."""
    number = find_signal("TERM")
    pids: list[str] = []
    args = list(process.argv[1:])
    while args:
        arg = args.pop(0)
        if arg == "-s" and args:
            number = find_signal(args.pop(0))
        elif arg.startswith("-") and len(arg) > 1:
            number = find_signal(arg[1:])
        else:
            pids.append(arg)
    if number is None or not pids:
        yield Write(b"kill: usage: kill [-SIGNAL] PID\n", stderr=True)
        return 1
    for pid in pids:
        if pid != "1":
            yield Write(f"kill: can't kill pid {pid}: No such process\n".encode(), stderr=True)
            return 1
        yield Signal(number)
    return 0


STANDARD_PROGRAMS: dict[str, Program] = {
    "[": _test,
    "ash": run_shell,
    "bash": run_shell,
    "cat": _cat,
    "date": _date,
    "echo": _echo,
    "env": _env,
    "false": _false,
    "head": _head,
    "hostname": _hostname,
    "kill": _kill,
    "ls": _ls,
    "printenv": _printenv,
    "printf": _printf,
    "pwd": _pwd,
    "rm": _rm,
    "seq": _seq,
    "sh": run_shell,
    "sleep": _sleep,
    "tail": _tail,
    "test": _test,
    "touch": _touch,
    "true": _true,
}
"""Programs of every simulated image, by name."""
