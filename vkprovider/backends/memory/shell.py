"""A very small POSIX shell for simulated containers: enough for the commands that pods in documentation carry.

It knows lists (``;``, new lines, ``&&``, ``||``, ``!``), ``{ }`` and ``( )`` groups, ``if``, ``while``, ``until``, ``for``, quotes, variables
(``$NAME``, ``${NAME}``, ``${NAME:-word}``, ``$?``, ``$1``, ``$#``, ``$@``), ``$(command)``, ``$((arithmetic))``, assignments, the redirections ``>``, ``>>``,
``<``, ``2>``, ``2>&1`` and ``>&2``, and the builtins ``:``, ``break``, ``cd``, ``continue``, ``exec``, ``exit``, ``export``, ``set``, ``trap`` and ``unset``. Pipes and
background jobs are not simulated: such a script ends with exit code 2 and says so on standard error.

A trap runs as soon as its signal arrives and ends the process afterwards; a real shell first waits for the command it runs.
"""

from __future__ import annotations

import ast
import operator
import re
import signal
from collections.abc import Callable, Generator
from typing import TypeVar

from vkprovider.backends.memory.process import Effect, Process, Program, Read, Run, Sleep, Write, run_until_stopped
from vkprovider.backends.memory.shell_syntax import (
    Command,
    CommandList,
    Compound,
    Part,
    Redirect,
    ShellSyntaxError,
    Simple,
    Word,
    parse_script,
    read_word,
)

T = TypeVar("T")
_Expansion = Generator[Effect, bytes | None, T]
_VARIABLE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")


class _Exit(Exception):
    def __init__(self, code: int) -> None:
        self.code = code


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


_BINARY: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: lambda a, b: int(a / b),
    ast.Div: lambda a, b: int(a / b),
    ast.Mod: lambda a, b: a - b * int(a / b),
}


class _Interpreter:
    def __init__(self, process: Process, args: tuple[str, ...]) -> None:
        self.process = process
        self.args = args
        self.last = 0

    def run_list(self, items: CommandList) -> Run:
        for and_or in items:
            for joiner, negated, command in and_or:
                if (joiner == "&&" and self.last != 0) or (joiner == "||" and self.last == 0):
                    continue
                code = yield from self._run_command(command)
                self.last = (0 if code else 1) if negated else code
        return self.last

    def _run_command(self, command: Command) -> Run:
        if isinstance(command, Simple):
            return (yield from self._run_simple(command))
        if command.redirects:
            return (yield from self._redirected(self._run_compound(command), command.redirects))
        return (yield from self._run_compound(command))

    def _run_compound(self, command: Compound) -> Run:
        if command.kind == "group":
            return (yield from self.run_list(command.body))
        if command.kind == "if":
            for condition, body in command.clauses:
                if (yield from self.run_list(condition)) == 0:
                    self.last = 0
                    return (yield from self.run_list(body))
            self.last = 0
            return (yield from self.run_list(command.body))
        code = 0
        if command.kind == "for":
            values: list[str] = []
            for word in command.words:
                values.extend((yield from self._fields(word)))
            for value in values:
                self.process.env[command.name] = value
                yield Sleep(0)
                try:
                    code = yield from self.run_list(command.body)
                except _Break:
                    return 0
                except _Continue:
                    continue
            return code
        ((condition, body),) = command.clauses
        while True:
            yield Sleep(0)
            found = yield from self.run_list(condition)
            if (found == 0) != (command.kind == "while"):
                self.last = code
                return code
            self.last = 0
            try:
                code = yield from self.run_list(body)
            except _Break:
                return 0
            except _Continue:
                continue

    def _run_simple(self, command: Simple) -> Run:
        env = self.process.env
        values = []
        for name, word in command.assignments:
            values.append((name, (yield from self._text(word))))
        argv: list[str] = []
        for word in command.words:
            argv.extend((yield from self._fields(word)))
        if not argv:
            env.update(values)
            return (yield from self._redirected(_nothing(), command.redirects))
        run = self._builtin(argv, values)
        if run is None:
            child = self.process.child(argv, {**env, **dict(values)})
            program = self.process.find_program(argv[0])
            if program is None and self.process.main:
                program = run_until_stopped
            run = _not_found(argv[0]) if program is None else program(child)
        return (yield from self._redirected(run, command.redirects))

    def _builtin(self, argv: list[str], values: list[tuple[str, str]]) -> Run | None:
        env = self.process.env
        match argv:
            case [":" | "set" | "wait", *_]:
                return _nothing()
            case ["exit"]:
                raise _Exit(self.last)
            case ["exit", code, *_]:
                raise _Exit(int(code) & 0xFF if code.lstrip("-").isdigit() else 2)
            case ["break", *_]:
                raise _Break
            case ["continue", *_]:
                raise _Continue
            case ["cd", *rest]:
                self.process.cwd = self.process.resolve(rest[0] if rest else "/")
                return _nothing()
            case ["export", *rest]:
                env.update(item.split("=", 1) for item in rest if "=" in item)  # type: ignore[misc]
                return _nothing()
            case ["unset", *names]:
                for name in names:
                    env.pop(name, None)
                return _nothing()
            case ["trap", *rest]:
                self._trap(rest)
                return _nothing()
            case ["exec", *rest] if rest:
                return self._exec(rest, dict(values))
            case ["exec"]:
                return _nothing()
        return None

    def _exec(self, argv: list[str], values: dict[str, str]) -> Run:
        self.process.traps.clear()
        program = self.process.find_program(argv[0])
        if program is None and self.process.main:
            program = run_until_stopped
        if program is None:
            raise _Exit((yield from _not_found(argv[0])))
        raise _Exit((yield from program(self.process.child(argv, {**self.process.env, **values}))))

    def _trap(self, argv: list[str]) -> None:
        if len(argv) < 2:
            return
        for name in argv[1:]:
            number = find_signal(name)
            if number is None:
                continue
            if argv[0] == "-":
                self.process.traps.pop(number, None)
            else:
                self.process.traps[number] = _trap_program(argv[0], number) if argv[0] else None

    def _redirected(self, run: Run, redirects: tuple[Redirect, ...]) -> Run:
        """Run with writes going elsewhere and reads coming from a file."""
        if not redirects:
            return (yield from run)
        outputs: dict[int, str | int] = {1: 1, 2: 2}  # descriptor to descriptor or path
        stdin: bytes | None = None
        files = self.process.files
        for redirect in redirects:
            target = yield from self._text(redirect.target)
            path = self.process.resolve(target)
            try:
                if redirect.op == "<":
                    stdin = files.read(path)
                elif redirect.op == ">&" and target in ("1", "2"):
                    outputs[redirect.fd] = outputs[int(target)]
                else:
                    files.write(path, b"", append=redirect.op == ">>")
                    outputs[redirect.fd] = path
            except OSError as error:
                run.close()
                yield Write(f"sh: can't open {target}: {error.strerror}\n".encode(), stderr=True)
                return 1
        value: bytes | None = None
        while True:
            try:
                effect = run.send(value)
            except StopIteration as stop:
                return int(stop.value)
            value = None
            if isinstance(effect, Read) and stdin is not None:
                value, stdin = stdin[: effect.max_bytes], stdin[effect.max_bytes :]
            elif isinstance(effect, Write):
                output = outputs[2 if effect.stderr else 1]
                if isinstance(output, str):
                    files.write(output, effect.data, append=True)
                else:
                    yield Write(effect.data, stderr=output == 2)
            else:
                value = yield effect

    def _fields(self, word: Word) -> _Expansion[list[str]]:
        """Fields of a word: what was not quoted is split at blanks."""
        fields: list[str] = []
        current: str | None = None
        for part in word:
            if part.kind == "var" and part.text == "@":
                texts = list(self.args[1:])
                if texts:
                    texts[0] = (current or "") + texts[0]
                    fields.extend(texts[:-1])
                    current = texts[-1]
                continue
            text = part.text if part.kind == "text" else (yield from self._expand(part))
            if part.quoted or part.kind == "text":
                current = (current or "") + text
                continue
            pieces = text.split()
            if not pieces:
                continue
            if text[0].isspace() and current is not None:
                fields.append(current)
                current = None
            pieces[0] = (current or "") + pieces[0]
            fields.extend(pieces[:-1])
            current = pieces[-1]
        if current is not None:
            fields.append(current)
        return fields

    def _text(self, word: Word) -> _Expansion[str]:
        text = ""
        for part in word:
            text += part.text if part.kind == "text" else (yield from self._expand(part))
        return text

    def _expand(self, part: Part) -> _Expansion[str]:
        if part.kind == "var":
            return (yield from self._variable(part.text))
        if part.kind == "arith":
            return str(self._arithmetic(part.text))
        output = b""
        inner = _Interpreter(self.process, self.args)
        run = inner.run_list(parse_script(part.text))
        value: bytes | None = None
        while True:
            try:
                effect = run.send(value)
            except (StopIteration, _Exit) as stop:
                self.last = int(stop.value) if isinstance(stop, StopIteration) else stop.code
                return output.decode(errors="replace").rstrip("\n")
            value = None
            if isinstance(effect, Write) and not effect.stderr:
                output += effect.data
            else:
                value = yield effect

    def _variable(self, text: str) -> _Expansion[str]:
        name, mark, default = text.partition(":-")
        if name.startswith("#") and len(name) > 1:
            return str(len(self.process.env.get(name[1:], "")))
        if name == "?":
            value = str(self.last)
        elif name == "#":
            value = str(max(0, len(self.args) - 1))
        elif name == "$":
            value = "1"
        elif name in ("*", "@"):
            value = " ".join(self.args[1:])
        elif name.isdigit():
            value = self.args[int(name)] if int(name) < len(self.args) else ""
        else:
            value = self.process.env.get(name, "")
        if not value and mark:
            token, _ = read_word(default.replace(" ", "\\ "), 0)
            return (yield from self._text(token.word))
        return value

    def _arithmetic(self, text: str) -> int:
        try:
            return self._evaluate(ast.parse(_VARIABLE.sub(r"\1", text).strip() or "0", mode="eval").body)
        except (SyntaxError, ValueError, ZeroDivisionError, OverflowError) as error:
            raise ShellSyntaxError(f"arithmetic {text.strip()!r}: {error}") from error

    def _evaluate(self, node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int() as value):
                return value
            case ast.Name(id=name):
                return int(self.process.env.get(name) or 0)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._evaluate(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return _BINARY[type(op)](self._evaluate(left), self._evaluate(right))
        raise ValueError("not simulated")


def _nothing() -> Run:
    yield from ()
    return 0


def _not_found(name: str) -> Run:
    yield Write(f"sh: {name}: not found\n".encode(), stderr=True)
    return 127


def _trap_program(script: str, number: int) -> Program:
    def run(process: Process) -> Run:
        interpreter = _Interpreter(process, ("sh",))
        try:
            yield from interpreter.run_list(parse_script(script))
        except _Exit as stop:
            return stop.code
        except ShellSyntaxError as error:
            yield Write(f"sh: {error}\n".encode(), stderr=True)
        return 128 + number

    return run


def find_signal(name: str) -> int | None:
    """Number of a signal given as ``TERM``, ``SIGTERM`` or ``15``; None if there is none."""
    if name.isdigit():
        return int(name)
    try:
        return int(signal.Signals["SIG" + name.upper().removeprefix("SIG")])
    except KeyError:
        return None


def run_shell(process: Process) -> Run:
    """The program ``sh``: ``sh -c script [name args]``, ``sh file`` or, without either, commands from standard input."""
    argv = list(process.argv[1:])
    script: str | None = None
    while argv and argv[0].startswith("-") and len(argv[0]) > 1:
        flag = argv.pop(0)
        if "c" in flag.lstrip("-") and not flag.startswith("--"):
            if not argv:
                yield Write(b"sh: -c requires an argument\n", stderr=True)
                return 2
            script = argv.pop(0)
            break
    if script is None and argv:
        try:
            script = process.files.read(process.resolve(argv[0])).decode(errors="replace")
        except OSError as error:
            yield Write(f"sh: {argv[0]}: {error.strerror}\n".encode(), stderr=True)
            return 127
    interpreter = _Interpreter(process, tuple(argv) or ("sh",))
    if script is None:
        return (yield from _interactive(interpreter))
    return (yield from _run_text(interpreter, script))


def _run_text(interpreter: _Interpreter, script: str) -> Run:
    try:
        return (yield from interpreter.run_list(parse_script(script)))
    except _Exit as stop:
        return stop.code
    except (_Break, _Continue):
        return interpreter.last
    except ShellSyntaxError as error:
        yield Write(f"sh: {error}\n".encode(), stderr=True)
        return 2


def _interactive(interpreter: _Interpreter) -> Run:
    """Read lines and run each; a terminal gets a prompt."""
    tty = interpreter.process.tty
    pending = b""
    while True:
        if tty:
            yield Write(f"{interpreter.process.cwd} # ".encode())
        while b"\n" not in pending:
            data = yield Read()
            if not data:
                return interpreter.last if not pending else (yield from _run_text(interpreter, pending.decode()))
            pending += data
        line, _, pending = pending.partition(b"\n")
        try:
            yield from interpreter.run_list(parse_script(line.decode(errors="replace")))
        except _Exit as stop:
            return stop.code
        except (_Break, _Continue):
            pass
        except ShellSyntaxError as error:
            interpreter.last = 2
            yield Write(f"sh: {error}\n".encode(), stderr=True)
