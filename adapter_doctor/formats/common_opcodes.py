"""Follow the pickle opcodes that a large state of tensors has most of, which is twice as fast as one by one by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_LONGEST = 9
"""Bytes that an opcode and a number behind it may take: so close to the end none is followed here."""


def follow(
    pickle: bytes,
    position: int,
    most: int,
    stack: list[Any],
    marks: list[int],
    memo: dict[int, Any],
    call: Callable[[Any, Any, bool], Any],
    stored: Callable[[Any], Any],
) -> tuple[int, int]:
    """From ``position`` on until another opcode comes: where that stands, and how many were followed, up to ``most``.

    They change ``stack``, ``marks`` and ``memo`` as pickle's documentation (pickletools.py) says; ``call`` gives what a
    function makes of its arguments, or a class where it is told no; ``stored`` what a persistent id stands for.

    Raises:
        IndexError, KeyError: the stack, the marks or the memo lack what an opcode takes.
    """
    end, number = len(pickle) - _LONGEST, int.from_bytes
    push = stack.append
    for count in range(most):
        if position >= end:
            return position, count
        op = pickle[position]
        if op == 0x72:  # LONG_BINPUT
            memo[number(pickle[position + 1 : position + 5], "little")] = stack[-1]
            position += 5
        elif op == 0x71:  # BINPUT
            memo[pickle[position + 1]] = stack[-1]
            position += 2
        elif op == 0x68:  # BINGET
            push(memo[pickle[position + 1]])
            position += 2
        elif op == 0x4B:  # BININT1
            push(pickle[position + 1])
            position += 2
        elif op == 0x28:  # MARK
            marks.append(len(stack))
            position += 1
        elif op == 0x58:  # BINUNICODE
            start = position + 5
            after = start + number(pickle[position + 1 : start], "little")
            if after > end:
                return position, count
            push(pickle[start:after].decode("utf-8", "surrogatepass"))
            position = after
        elif op == 0x74:  # TUPLE
            at = marks.pop()
            stack[at:] = [tuple(stack[at:])]
            position += 1
        elif op in (0x52, 0x81):  # REDUCE, NEWOBJ
            arguments = stack.pop()
            stack[-1] = call(stack[-1], arguments, op == 0x52)
            position += 1
        elif op == 0x29:  # EMPTY_TUPLE
            push(())
            position += 1
        elif op == 0x4D:  # BININT2
            push(pickle[position + 1] | pickle[position + 2] << 8)
            position += 3
        elif op == 0x86:  # TUPLE2
            last = stack.pop()
            stack[-1] = (stack[-1], last)
            position += 1
        elif op == 0x89:  # NEWFALSE
            push(False)
            position += 1
        elif op == 0x51:  # BINPERSID
            stack[-1] = stored(stack[-1])
            position += 1
        elif op == 0x4A:  # BININT
            push(number(pickle[position + 1 : position + 5], "little", signed=True))
            position += 5
        elif op == 0x94:  # MEMOIZE, which protocol 4 has in place of BINPUT
            memo[len(memo)] = stack[-1]
            position += 1
        elif op == 0x8C:  # SHORT_BINUNICODE
            after = position + 2 + pickle[position + 1]
            if after > end:
                return position, count
            push(pickle[position + 2 : after].decode("utf-8", "surrogatepass"))
            position = after
        elif op == 0x6A:  # LONG_BINGET
            push(memo[number(pickle[position + 1 : position + 5], "little")])
            position += 5
        elif op == 0x7D:  # EMPTY_DICT
            push({})
            position += 1
        elif op == 0x85:  # TUPLE1
            stack[-1] = (stack[-1],)
            position += 1
        else:
            return position, count
    return position, most
