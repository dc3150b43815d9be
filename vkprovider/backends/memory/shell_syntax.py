"""Reading scripts of the simulated shell: text to tokens to a tree. ``shell`` says what is known and runs the tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_RESERVED = frozenset({"if", "then", "elif", "else", "fi", "while", "until", "for", "in", "do", "done", "{", "}", "!"})
_OPERATORS = (
    "&&",
    "||",
    ";;",
    ">>",
    ">&",
    "<<",
    "2>&1",
    "2>>",
    "2>",
    "1>&2",
    "1>",
    "&>",
    ";",
    "&",
    "|",
    "(",
    ")",
    "<",
    ">",
    "\n",
)
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9?#@*$!]")


class ShellSyntaxError(ValueError):
    """The script cannot be read, or uses what is not simulated."""


@dataclass(frozen=True, slots=True)
class Part:
    """Part of a word: ``text``, ``var``, ``command`` or ``arith``. A quoted one is not split into fields."""

    kind: str
    text: str
    quoted: bool = False


Word = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """An operator, or a word; ``bare`` is its text when nothing in it was quoted or expanded (it may be reserved)."""

    op: str = ""
    word: Word = ()
    bare: str = ""


@dataclass(frozen=True, slots=True)
class Redirect:
    """A redirection of descriptor ``fd``: ``<``, ``>``, ``>>`` or ``>&`` and its target."""

    fd: int
    op: str
    target: Word


@dataclass(frozen=True, slots=True)
class Simple:
    """A simple command."""

    assignments: tuple[tuple[str, Word], ...]
    words: tuple[Word, ...]
    redirects: tuple[Redirect, ...]


@dataclass(frozen=True, slots=True)
class Compound:
    """A ``group``, ``if``, ``while``, ``until`` or ``for``; clauses are pairs of condition and body."""

    kind: str
    name: str = ""
    words: tuple[Word, ...] = ()
    clauses: tuple[tuple[CommandList, CommandList], ...] = ()
    body: CommandList = ()
    redirects: tuple[Redirect, ...] = ()


Command = Simple | Compound
AndOr = tuple[tuple[str, bool, Command], ...]  # (joiner before it, negated, command)
CommandList = tuple["AndOr", ...]


def _closing(text: str, start: int, opener: str, closer: str) -> int:
    """Index just after the closer that matches an opener before ``start``; quotes are respected."""
    depth, index, quote = 1, start, ""
    while index < len(text):
        char = text[index]
        if quote:
            if char == "\\" and quote == '"':
                index += 1
            elif char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        elif char == "\\":
            index += 1
        elif char == opener:
            depth += 1
        elif char == closer:
            depth -= 1
            if depth == 0:
                return index + 1
        index += 1
    raise ShellSyntaxError(f"missing {closer!r}")


def _read_dollar(text: str, index: int, quoted: bool) -> tuple[Part, int]:
    """The expansion that begins at ``text[index] == "$"``, and where it ends."""
    if text.startswith("$((", index):
        end = _closing(text, index + 3, "(", ")")
        if text[end : end + 1] == ")":
            return Part("arith", text[index + 3 : end - 1], quoted), end + 1
    if text.startswith("$(", index):
        end = _closing(text, index + 2, "(", ")")
        return Part("command", text[index + 2 : end - 1], quoted), end
    if text.startswith("${", index):
        end = _closing(text, index + 2, "{", "}")
        return Part("var", text[index + 2 : end - 1], quoted), end
    match = _NAME.match(text, index + 1)
    if match is None:
        return Part("text", "$", quoted), index + 1
    return Part("var", match.group(), quoted), match.end()


def read_word(text: str, index: int) -> tuple[Token, int]:
    """The word that begins at an index, and where it ends."""
    parts: list[Part] = []
    plain = True
    literal = ""

    def flush(quoted: bool = False) -> None:
        nonlocal literal
        if literal or quoted:
            parts.append(Part("text", literal, quoted))
        literal = ""

    start = index
    while index < len(text) and text[index] not in " \t\n;&|()<>":
        char = text[index]
        if char == "\\":
            flush()
            if text[index + 1 : index + 2] != "\n":
                parts.append(Part("text", text[index + 1 : index + 2], True))
            index, plain = index + 2, False
        elif char == "'":
            flush()
            end = text.find("'", index + 1)
            if end < 0:
                raise ShellSyntaxError("unterminated quoted string")
            parts.append(Part("text", text[index + 1 : end], True))
            index, plain = end + 1, False
        elif char == '"':
            flush()
            index, plain = _read_double_quoted(text, index + 1, parts), False
        elif char == "$":
            flush()
            part, index = _read_dollar(text, index, False)
            parts.append(part)
            plain = False
        else:
            literal += char
            index += 1
    flush()
    return Token(word=tuple(parts), bare=text[start:index] if plain else ""), index


def _read_double_quoted(text: str, index: int, parts: list[Part]) -> int:
    literal = ""
    parts.append(Part("text", "", True))  # "" alone is a word
    while index < len(text):
        char = text[index]
        if char == '"':
            parts.append(Part("text", literal, True))
            return index + 1
        if char == "\\" and text[index + 1 : index + 2] in ("$", '"', "\\", "`", "\n"):
            literal += "" if text[index + 1] == "\n" else text[index + 1]
            index += 2
        elif char == "$":
            parts.append(Part("text", literal, True))
            literal = ""
            part, index = _read_dollar(text, index, True)
            parts.append(part)
        else:
            literal += char
            index += 1
    raise ShellSyntaxError("unterminated quoted string")


def _tokenize(text: str) -> list[Token]:
    tokens: list[Token] = []
    index, fresh = 0, True
    while index < len(text):
        char = text[index]
        if char in " \t":
            index, fresh = index + 1, True
            continue
        if text.startswith("\\\n", index):
            index += 2
            continue
        if char == "#" and fresh:
            while index < len(text) and text[index] != "\n":
                index += 1
            continue
        found = next((op for op in _OPERATORS if text.startswith(op, index) and (fresh or not op[0].isdigit())), None)
        if found is not None:
            tokens.append(Token(op=found))
            index, fresh = index + len(found), True
            continue
        token, index = read_word(text, index)
        tokens.append(token)
        fresh = False
    return tokens


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokenize(text)
        self._at = 0

    def parse(self) -> CommandList:
        result = self._list(())
        if self._at < len(self._tokens):
            raise ShellSyntaxError(f"unexpected {self._show()}")
        return result

    def _peek(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _show(self) -> str:
        token = self._peek()
        return "end of script" if token is None else repr(token.op or token.bare or "word")

    def _is_op(self, *ops: str) -> bool:
        token = self._peek()
        return token is not None and token.op in ops and bool(token.op)

    def _is_reserved(self, *words: str) -> bool:
        token = self._peek()
        return token is not None and bool(token.bare) and token.bare in words

    def _skip_newlines(self) -> None:
        while self._is_op("\n"):
            self._at += 1

    def _expect(self, word: str) -> None:
        self._skip_newlines()
        if not self._is_reserved(word):
            raise ShellSyntaxError(f"expected {word!r}, found {self._show()}")
        self._at += 1

    def _list(self, ends: tuple[str, ...]) -> CommandList:
        items: list[AndOr] = []
        while True:
            while self._is_op("\n", ";"):
                self._at += 1
            if self._peek() is None or self._is_reserved(*ends) or self._is_op(")"):
                return tuple(items)
            items.append(self._and_or())
            if self._is_op("&"):
                raise ShellSyntaxError("background jobs (&) are not simulated")
            if not self._is_op("\n", ";") and not (
                self._peek() is None or self._is_reserved(*ends) or self._is_op(")")
            ):
                raise ShellSyntaxError(f"unexpected {self._show()}")

    def _and_or(self) -> AndOr:
        items: list[tuple[str, bool, Command]] = []
        joiner = ""
        while True:
            self._skip_newlines()
            negated = False
            while self._is_reserved("!"):
                self._at += 1
                negated = not negated
            items.append((joiner, negated, self._command()))
            if self._is_op("|"):
                raise ShellSyntaxError("pipes (|) are not simulated")
            if not self._is_op("&&", "||"):
                return tuple(items)
            joiner = self._tokens[self._at].op
            self._at += 1

    def _command(self) -> Command:
        compound: Compound | None = None
        if self._is_op("("):
            self._at += 1
            body = self._list(())
            if not self._is_op(")"):
                raise ShellSyntaxError(f"expected ')', found {self._show()}")
            self._at += 1
            compound = Compound("group", body=body)
        elif self._is_reserved("{"):
            self._at += 1
            body = self._list(("}",))
            self._expect("}")
            compound = Compound("group", body=body)
        elif self._is_reserved("while", "until"):
            kind = self._tokens[self._at].bare
            self._at += 1
            condition = self._list(("do",))
            compound = Compound(kind, clauses=((condition, self._do()),))
        elif self._is_reserved("for"):
            compound = self._for()
        elif self._is_reserved("if"):
            compound = self._if()
        if compound is None:
            return self._simple()
        redirects = tuple(self._redirects())
        return Compound(compound.kind, compound.name, compound.words, compound.clauses, compound.body, redirects)

    def _do(self) -> CommandList:
        self._expect("do")
        body = self._list(("done",))
        self._expect("done")
        return body

    def _for(self) -> Compound:
        self._at += 1
        token = self._peek()
        if token is None or not token.bare:
            raise ShellSyntaxError(f"expected a name after 'for', found {self._show()}")
        self._at += 1
        words: list[Word] = []
        self._skip_newlines()
        if self._is_reserved("in"):
            self._at += 1
            while (token_ := self._peek()) is not None and not token_.op:
                words.append(token_.word)
                self._at += 1
        while self._is_op(";", "\n"):
            self._at += 1
        return Compound("for", name=token.bare, words=tuple(words), body=self._do())

    def _if(self) -> Compound:
        clauses: list[tuple[CommandList, CommandList]] = []
        otherwise: CommandList = ()
        self._at += 1
        while True:
            condition = self._list(("then",))
            self._expect("then")
            clauses.append((condition, self._list(("elif", "else", "fi"))))
            if self._is_reserved("elif"):
                self._at += 1
                continue
            if self._is_reserved("else"):
                self._at += 1
                otherwise = self._list(("fi",))
            self._expect("fi")
            return Compound("if", clauses=tuple(clauses), body=otherwise)

    def _redirects(self) -> Iterator[Redirect]:
        while (token := self._peek()) is not None and token.op in (
            ">",
            ">>",
            "<",
            "2>",
            "2>>",
            "1>",
            "&>",
            ">&",
            "1>&2",
            "2>&1",
        ):
            self._at += 1
            if token.op in ("1>&2", "2>&1"):
                fd, target = (1, "2") if token.op == "1>&2" else (2, "1")
                yield Redirect(fd, ">&", (Part("text", target),))
                continue
            word = self._peek()
            if word is None or word.op:
                raise ShellSyntaxError(f"expected a file name after {token.op!r}, found {self._show()}")
            self._at += 1
            if token.op == "&>":
                yield Redirect(1, ">", word.word)
                yield Redirect(2, ">&", (Part("text", "1"),))
            else:
                fd = 2 if token.op.startswith("2") else 0 if token.op == "<" else 1
                yield Redirect(fd, token.op.lstrip("12"), word.word)

    def _simple(self) -> Simple:
        assignments: list[tuple[str, Word]] = []
        words: list[Word] = []
        redirects: list[Redirect] = []
        while True:
            redirects.extend(self._redirects())
            token = self._peek()
            if token is None or token.op:
                break
            if not words and token.bare in _RESERVED:
                raise ShellSyntaxError(f"unexpected {token.bare!r}")
            self._at += 1
            first = token.word[0] if token.word else None
            if not words and first is not None and first.kind == "text" and not first.quoted:
                match = _ASSIGNMENT.match(first.text)
                if match is not None:
                    rest = (Part("text", first.text[match.end() :], True), *token.word[1:])
                    assignments.append((match.group()[:-1], rest))
                    continue
            words.append(token.word)
        if not (assignments or words or redirects):
            raise ShellSyntaxError(f"unexpected {self._show()}")
        return Simple(tuple(assignments), tuple(words), tuple(redirects))


@lru_cache(maxsize=512)
def parse_script(text: str) -> CommandList:
    """The script as a tree; equal scripts share one.

    Raises:
        ShellSyntaxError: It cannot be read, or uses what is not simulated.
    """
    return _Parser(text).parse()
