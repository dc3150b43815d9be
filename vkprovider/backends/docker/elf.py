"""Tiny static programs for images that the engine cannot pull: a pause program and a greeting.

Both end with exit code 0 on SIGTERM or SIGINT and reap every process that becomes their child, as the first process of a
pod's PID namespace must. They block the three signals and take them one by one from ``rt_sigtimedwait``: no handler is
installed, and a blocked signal reaches even PID 1, which ignores signals without a handler otherwise.

The machine code is put together here from commented instructions, so that no binary is kept anywhere.

Source: kubernetes build/pause/linux/pause.c for what a pause program does; ELF-64 object file format; Linux system calls
of x86-64 and arm64.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

ProgramMaker = Callable[[str], bytes]
"""Makes an executable for an architecture; raises KeyError for one it does not know."""

AMD64 = "amd64"
ARM64 = "arm64"

_SIGINT, _SIGTERM, _SIGCHLD = 2, 15, 17
_SIGNAL_SET = sum(1 << (number - 1) for number in (_SIGINT, _SIGTERM, _SIGCHLD))
_SIGSET_BYTES = 8
_WNOHANG = 1

_BASE_ADDRESS = 0x400000
_EHDR_BYTES, _PHDR_BYTES = 64, 56
_MACHINE = {AMD64: 62, ARM64: 183}
_PAGE_BYTES = 0x10000


@dataclass
class _Code:
    """Machine code with labels; jumps to labels are filled in at the end."""

    data: bytearray = field(default_factory=bytearray)
    labels: dict[str, int] = field(default_factory=dict)
    jumps: list[tuple[int, str, str]] = field(default_factory=list)

    def emit(self, *parts: bytes) -> None:
        for part in parts:
            self.data += part

    def label(self, name: str) -> None:
        self.labels[name] = len(self.data)

    def jump(self, kind: str, target: str, placeholder: bytes) -> None:
        self.jumps.append((len(self.data), kind, target))
        self.data += placeholder


def make_pause_program(architecture: str) -> bytes:
    """An executable that waits for SIGTERM or SIGINT and reaps children.

    Args:
        architecture: ``amd64`` or ``arm64``.

    Raises:
        KeyError: Another architecture.
    """
    return _make_program(architecture, b"")


def make_greeting_program(architecture: str, greeting: bytes) -> bytes:
    """The same, after it has written ``greeting`` to standard output.

    Raises:
        KeyError: Neither ``amd64`` nor ``arm64``.
    """
    return _make_program(architecture, greeting)


def _make_program(architecture: str, greeting: bytes) -> bytes:
    code = {AMD64: _amd64, ARM64: _arm64}[architecture](greeting)
    return _make_elf(architecture, code)


def _amd64(greeting: bytes) -> bytes:
    code = _Code()
    if greeting:
        code.emit(bytes.fromhex("bf01000000"))  # mov edi, 1                  ; standard output
        code.emit(bytes.fromhex("488d35"))  # lea rsi, [rip + greeting]
        code.jump("rel32", "greeting", bytes(4))
        code.emit(b"\xba", struct.pack("<I", len(greeting)))  # mov edx, length
        code.emit(bytes.fromhex("b801000000"))  # mov eax, 1                  ; write
        code.emit(bytes.fromhex("0f05"))  # syscall
    code.emit(b"\x68", struct.pack("<I", _SIGNAL_SET))  # push signal_set     ; sign-extended to 64 bits
    code.emit(bytes.fromhex("4889e6"))  # mov rsi, rsp                        ; set
    code.emit(bytes.fromhex("31ff"))  # xor edi, edi                          ; SIG_BLOCK
    code.emit(bytes.fromhex("31d2"))  # xor edx, edx                          ; old set: none
    code.emit(bytes.fromhex("41ba"), struct.pack("<I", _SIGSET_BYTES))  # mov r10d, 8
    code.emit(bytes.fromhex("b80e000000"))  # mov eax, 14                     ; rt_sigprocmask
    code.emit(bytes.fromhex("0f05"))  # syscall
    code.label("wait")
    code.emit(bytes.fromhex("4889e7"))  # mov rdi, rsp                        ; set
    code.emit(bytes.fromhex("31f6"))  # xor esi, esi                          ; information: none
    code.emit(bytes.fromhex("31d2"))  # xor edx, edx                          ; timeout: none
    code.emit(bytes.fromhex("41ba"), struct.pack("<I", _SIGSET_BYTES))  # mov r10d, 8
    code.emit(bytes.fromhex("b880000000"))  # mov eax, 128                    ; rt_sigtimedwait
    code.emit(bytes.fromhex("0f05"))  # syscall
    code.emit(bytes.fromhex("83f8"), bytes([_SIGCHLD]))  # cmp eax, SIGCHLD
    code.emit(b"\x74")  # je reap
    code.jump("rel8", "reap", bytes(1))
    code.emit(bytes.fromhex("85c0"))  # test eax, eax
    code.emit(b"\x7e")  # jle wait                                            ; interrupted
    code.jump("rel8", "wait", bytes(1))
    code.emit(bytes.fromhex("31ff"))  # xor edi, edi                          ; exit code 0
    code.emit(bytes.fromhex("b8e7000000"))  # mov eax, 231                    ; exit_group
    code.emit(bytes.fromhex("0f05"))  # syscall
    code.label("reap")
    code.emit(bytes.fromhex("48c7c7ffffffff"))  # mov rdi, -1                 ; any child
    code.emit(bytes.fromhex("31f6"))  # xor esi, esi                          ; status: none
    code.emit(b"\xba", struct.pack("<I", _WNOHANG))  # mov edx, WNOHANG
    code.emit(bytes.fromhex("4531d2"))  # xor r10d, r10d                      ; usage: none
    code.emit(bytes.fromhex("b83d000000"))  # mov eax, 61                     ; wait4
    code.emit(bytes.fromhex("0f05"))  # syscall
    code.emit(bytes.fromhex("85c0"))  # test eax, eax
    code.emit(b"\x7f")  # jg reap                                             ; there may be more
    code.jump("rel8", "reap", bytes(1))
    code.emit(b"\xeb")  # jmp wait
    code.jump("rel8", "wait", bytes(1))
    code.label("greeting")
    code.emit(greeting)
    for position, kind, target in code.jumps:
        form, size = ("<b", 1) if kind == "rel8" else ("<i", 4)
        struct.pack_into(form, code.data, position, code.labels[target] - (position + size))
    return bytes(code.data)


def _arm64(greeting: bytes) -> bytes:
    code = _Code()

    def emit(word: int) -> None:
        code.emit(struct.pack("<I", word))

    def movz(register: int, value: int, half: int = 0) -> None:
        emit(0xD2800000 | half << 21 | value << 5 | register)

    def system_call(number: int) -> None:
        movz(8, number)  # mov x8, number
        emit(0xD4000001)  # svc #0

    if greeting:
        movz(0, 1)  # mov x0, #1              ; standard output
        code.jump("adr", "greeting", struct.pack("<I", 0x10000001))  # adr x1, greeting
        movz(2, len(greeting))  # mov x2, length
        system_call(64)  # write
    movz(1, _SIGNAL_SET & 0xFFFF)  # mov x1, signal_set (low half)
    emit(0xF2A00000 | (_SIGNAL_SET >> 16) << 5 | 1)  # movk x1, signal_set (high half), lsl #16
    emit(0xF81F0FE1)  # str x1, [sp, #-16]!
    movz(0, 0)  # mov x0, #0                  ; SIG_BLOCK
    emit(0x910003E1)  # mov x1, sp            ; set
    movz(2, 0)  # mov x2, #0                  ; old set: none
    movz(3, _SIGSET_BYTES)  # mov x3, #8
    system_call(135)  # rt_sigprocmask
    code.label("wait")
    emit(0x910003E0)  # mov x0, sp            ; set
    movz(1, 0)  # mov x1, #0                  ; information: none
    movz(2, 0)  # mov x2, #0                  ; timeout: none
    movz(3, _SIGSET_BYTES)  # mov x3, #8
    system_call(137)  # rt_sigtimedwait
    emit(0xF100001F | _SIGCHLD << 10)  # cmp x0, #SIGCHLD
    code.jump("imm19", "reap", struct.pack("<I", 0x54000000))  # b.eq reap
    emit(0xF100001F)  # cmp x0, #0
    code.jump("imm19", "wait", struct.pack("<I", 0x5400000D))  # b.le wait  ; interrupted
    movz(0, 0)  # mov x0, #0                  ; exit code 0
    system_call(94)  # exit_group
    code.label("reap")
    emit(0x92800000)  # mov x0, #-1           ; any child
    movz(1, 0)  # mov x1, #0                  ; status: none
    movz(2, _WNOHANG)  # mov x2, #WNOHANG
    movz(3, 0)  # mov x3, #0                  ; usage: none
    system_call(260)  # wait4
    emit(0xF100001F)  # cmp x0, #0
    code.jump("imm19", "reap", struct.pack("<I", 0x5400000C))  # b.gt reap  ; there may be more
    code.jump("imm26", "wait", struct.pack("<I", 0x14000000))  # b wait
    code.label("greeting")
    code.emit(greeting)
    for position, kind, target in code.jumps:
        (word,) = struct.unpack_from("<I", code.data, position)
        offset = code.labels[target] - position
        if kind == "imm19":
            word |= (offset >> 2 & 0x7FFFF) << 5
        elif kind == "imm26":
            word |= offset >> 2 & 0x3FFFFFF
        else:
            word |= (offset & 3) << 29 | (offset >> 2 & 0x7FFFF) << 5
        struct.pack_into("<I", code.data, position, word)
    return bytes(code.data)


def _make_elf(architecture: str, code: bytes) -> bytes:
    """One loadable segment, readable and executable, and a stack that is not executable."""
    headers = _EHDR_BYTES + 2 * _PHDR_BYTES
    size = headers + len(code)
    identification = b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)  # 64 bits, little endian, version 1, System V
    header = identification + struct.pack(
        "<HHIQQQIHHHHHH",
        2,  # ET_EXEC
        _MACHINE[architecture],
        1,  # version
        _BASE_ADDRESS + headers,  # entry
        _EHDR_BYTES,  # program headers follow this header
        0,  # no section headers
        0,  # flags
        _EHDR_BYTES,
        _PHDR_BYTES,
        2,  # program headers
        0,
        0,
        0,
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE_ADDRESS, _BASE_ADDRESS, size, size, _PAGE_BYTES)  # PT_LOAD, R+X
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)  # PT_GNU_STACK, R+W
    return header + load + stack + code
