r"""Changes that get behind the checksums: of what stands in lines, with crc, hash and links put right again.

A fuzzer that flips bytes of a log finds out that a crc is checked, and nothing else. So here lines are changed as JSON,
moved, doubled and dropped, files are cut, renamed and exchanged, and then `mend` makes a chain of what came of it: most
of the time, and never of all of it, since what is broken in one place is to be met too.
"""

from __future__ import annotations

import hashlib
import random
import re
import zlib
from collections.abc import Callable
from typing import Final

from every_event import EVENTS, NOW
from targets import files_of, written

from kharon.log.record import Chain

__all__ = ["mend", "mend_directory", "mutate"]

_BODY: Final = 92
_ZEROS: Final = b"0" * 64
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null|\[[^\[\]]*\]|\{[^{}]*\}')
_NAMES: Final = [
    *(f"log/{number:020}.jsonl" for number in (0, 1, 2, 3, 5, 9, 10**19)),
    *(f"snapshots/{number:020}.jsonl" for number in (1, 2, 3, 5, 9)),
    *("LOCK", "reserve", "quarantine/1", "log/x.jsonl", "log/1.jsonl", "log/00000000000000000001.jsonl.tmp"),
]
_WORDS: Final = [
    *(b"null", b"true", b"false", b"0", b"1", b"2", b"-1", b"9223372036854775807", b"18446744073709551616", b"1.5"),
    *(b"1e999", b"-1e999", b"1e-999", b"NaN", b"Infinity", b"-0", b"01", b"9" * 400, b"9" * 5000, b'""', b'"\\ud800"'),
    *(b'"\\ud83d\\ude00"', b'"\xc3\xbc"', b'"\xff"', b'"\\u0000"', b'"a\\nb"', b'"' + b"x" * 300 + b'"', b"[]", b"{}"),
    *(b"[1,1]", b"[1,2]", b"[2,2]", b"[0,0]", b"[1]", b'"a"', b'"b"', b'"pending"', b'"done"', b'"failed"'),
    *(b"[" * 67 + b"]" * 67, b"[" * 63 + b"]" * 63, b'{"a":' * 70 + b"1" + b"}" * 70, b"[" * 2000, b'{"hash":"'),
    *(b'"2026-01-01T00:00:00Z"', b'"2026-01-01T00:00:00"', b'"0001-01-01T00:00:00+14:00"', b'"9999-12-31T23:59:59Z"'),
    *(b'"9999-12-31T23:59:59-23:59"', b'"2026-02-30T00:00:00Z"', b'"2026-01-01T23:59:60Z"', b'"1970-01-01t00:00:00z"'),
    *(b'"TicketAdded"', b'"TicketDone"', b'"LogClosed"', b'"TicketInvented"', b'"kharon-log"', b'"kharon-snapshot"'),
]
_FIELDS: Final = [
    *(b'"seq":1', b'"durable":9', b'"sealed":1', b'"tickets":1', b'"hash":"x"', b'"part":[1,1]', b'"v":2', b'"at":1'),
    *(b'"event":"LogClosed"', b'"group":null', b'"keep":true', b'"changes":{"group":null}', b'"successor":null'),
    *(b'"claim":1', b'"lease_until":"2026-01-01T00:00:00"', b'"expire_at":"2026-01-01T00:00:00Z"', b'"attempts":-1'),
    *(b'"status":"done"', b'"blocked_by":["a"]', b'"worker":"w"', b'"order":99', b'"version":99', b'"new":{"a":[]}'),
    *(b'"joined":1', b'"after":["a","b"]', b'"after_group":"g"', b'"blocked_by_group":true', b'"dropped":true'),
    *(b'"gate":{"after":["a"]}', b'"gate":{"after_group":"g","since":1}', b'"on_failure":"cancel"', b'"since":2'),
]


def link(previous: bytes, body: bytes) -> bytes:
    digest = hashlib.sha256(previous + body).hexdigest().encode()
    return b'{"hash":"%b","crc":"%08x",%b\n' % (digest, zlib.crc32(body), body)


def lines_of(data: bytes) -> list[bytes]:
    return re.findall(rb"[^\n]*\n|[^\n]+$", data)


def body_of(line: bytes) -> bytes:
    return line[_BODY:].removesuffix(b"\n")


def _field(body: bytes, name: bytes) -> bytes:
    found = re.search(rb'"%b":"?([0-9a-f]{1,64})' % name, body)
    return found[1] if found else b""


def _set(body: bytes, name: bytes, value: bytes) -> bytes:
    return re.sub(rb'("%b":)("[0-9a-f]*"|[0-9]+)' % name, lambda found: found[1] + value, body, count=1)


def mend(data: bytes) -> bytes:
    """Make a chain of the lines of one file: of a snapshot, or one line alone. O(bytes)."""
    made, previous = [], _ZEROS
    for number, line in enumerate(lines_of(data)):
        body = body_of(line)
        if not number:
            previous = _field(body, b"record") or _ZEROS
        made.append(link(previous, body))
        previous = made[-1][9:73]
    return b"".join(made)


def half_mend(data: bytes) -> bytes:
    """Put the crc of each line right, and leave its hash: what an editor of history would do who forgot the chain."""
    lines = []
    for line in lines_of(data):
        body = body_of(line)
        lines.append(b'%b","crc":"%08x",%b\n' % (line[:73].ljust(73, b"0"), zlib.crc32(body), body))
    return b"".join(lines)


def mend_directory(contents: dict[str, bytes], *, number: bool = True, links: bool = True) -> dict[str, bytes]:
    """Make a chain of the segments, and let each snapshot follow from it.

    With `number` records are counted anew; with `links` a header and a seal say which lines they stand beside.
    """
    made = dict(contents)
    previous, seq, hashes = _ZEROS, 0, {}
    unsealed: tuple[str, list[bytes], bytes] | None = None
    for path in sorted(path for path in contents if path.startswith("log/") and path.endswith(".jsonl")):
        lines, seal = [], b""
        for index, line in enumerate(lines_of(contents[path])):
            body = body_of(line)
            if body.startswith(b'"sealed":'):
                seal = body
                continue
            if not index and links:
                body = _set(_set(body, b"previous", b'"%b"' % previous), b"first", b"%d" % (seq + 1))
            elif index and number:
                body = _set(body, b"seq", b"%d" % (seq + 1))
            lines.append(link(previous, body))
            previous = lines[-1][9:73]
            if index:
                seq += 1
                hashes[seq] = previous
            elif unsealed is not None:
                before, old, sealing = unsealed
                if links:
                    sealing = _set(sealing, b"next", b'"%b"' % previous)
                made[before] = b"".join([*old, link(hashes.get(seq, _ZEROS), sealing)])
        unsealed = (path, lines, _set(seal, b"sealed", b"%d" % seq)) if seal else None
        made[path] = b"".join(lines)
    for path, data in contents.items():
        if path.startswith("snapshots/"):
            head, *rest = lines_of(data) or [b""]
            body = body_of(head)
            seq_there = re.search(rb'"seq":([0-9]{1,18})\b', body)
            at = int(seq_there[1]) if seq_there else 0
            body = _set(body, b"record", b'"%b"' % hashes.get(at, _ZEROS))
            made[path] = mend(b"x" * _BODY + body + b"\n" + b"".join(rest))
    return made


# --- changes ----------------------------------------------------------------------------------------------------------


def change_body(body: bytes, chance: random.Random, havoc: Callable[[bytes], bytes]) -> bytes:
    """Change one thing in the JSON of a line."""
    tokens = list(_TOKEN.finditer(body))
    kind = chance.randrange(6)
    if kind == 0 or not tokens:
        return havoc(body).replace(b"\n", b"")
    token = chance.choice(tokens)
    if kind == 1:  # a field more, perhaps one that is there already, in front or at the end
        field = chance.choice(_FIELDS)
        return body[:-1] + b"," + field + b"}" if chance.random() < 0.7 else field + b"," + body
    if kind == 2:  # a value taken from elsewhere in the line
        return body[: token.start()] + chance.choice(tokens)[0] + body[token.end() :]
    if kind == 3:  # a field less
        fields = list(re.finditer(rb',"[a-z_]+":(?:"[^"]*"|[^,{}\[\]]+)', body))
        if fields:
            field = chance.choice(fields)
            return body[: field.start()] + body[field.end() :]
    return body[: token.start()] + chance.choice(_WORDS) + body[token.end() :]


def change_lines(lines: list[bytes], chance: random.Random, havoc: Callable[[bytes], bytes]) -> list[bytes]:
    """Change one line, or where lines stand."""
    if not lines:
        return [*Chain().commit([chance.choice(EVENTS)], NOW, "ann", 0)]
    at, kind = chance.randrange(len(lines)), chance.randrange(8)
    if kind == 0:
        return lines[:at] + lines[at + 1 :]
    if kind == 1:
        return lines[: at + 1] + lines[at:]
    if kind == 2:
        other = chance.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
        return lines
    if kind == 3:
        new = Chain().commit([chance.choice(EVENTS) for _ in range(chance.choice((1, 1, 2)))], NOW, "ann", 0)
        return lines[: at + 1] + new + lines[at + 1 :]
    return [*lines[:at], lines[at][:_BODY] + change_body(body_of(lines[at]), chance, havoc) + b"\n", *lines[at + 1 :]]


def change_files(contents: dict[str, bytes], chance: random.Random) -> dict[str, bytes]:
    """Change which files there are, or where one ends."""
    path, kind = chance.choice(sorted(contents)), chance.randrange(5)
    data = contents[path]
    if kind == 0:
        return {each: content for each, content in contents.items() if each != path}
    if kind == 1:
        return contents | {path: data[: chance.randrange(len(data) + 1)]}
    if kind == 2:
        other = chance.choice(sorted(contents))
        return contents | {path: contents[other], other: data}
    name = chance.choice(_NAMES)
    if kind == 3:
        return contents | {name: data}
    return {name if each == path else each: content for each, content in contents.items()}


def mutate(target: str, data: bytes, seed: int, havoc: Callable[[bytes], bytes]) -> bytes:
    """Return a changed input for a target. `havoc` changes bytes as the fuzzer likes; else it is pure."""
    chance = random.Random(seed)
    if chance.random() < 0.1:
        return havoc(data)
    if target != "directory":
        lines = lines_of(data)
        for _ in range(chance.choice((1, 1, 2, 4))):
            lines = change_lines(lines, chance, havoc)
        changed = b"".join(lines)
        return chance.choice((mend,) * 8 + (half_mend, bytes))(changed)
    contents = files_of(data) or {f"log/{1:020}.jsonl": b""}
    for _ in range(chance.choice((1, 1, 2, 4))):
        path = chance.choice(sorted(contents)) if contents else ""
        if not contents or chance.random() < 0.25:
            contents = change_files(contents, chance) if contents else {"LOCK": b""}
        else:
            contents[path] = b"".join(change_lines(lines_of(contents[path]), chance, havoc))
    torn = chance.random() < 0.3
    mended = contents
    if chance.random() < 0.8:
        mended = mend_directory(contents, number=chance.random() < 0.8, links=chance.random() < 0.9)
    elif chance.random() < 0.5:
        mended = {path: half_mend(data) if path.startswith("log/") else data for path, data in contents.items()}
    if torn:  # behind the mending: what a crash, or damage, does to a chain
        mended = change_files(mended, chance) if chance.random() < 0.5 and mended else _tear(mended, chance)
    return written(mended)


def _tear(contents: dict[str, bytes], chance: random.Random) -> dict[str, bytes]:
    """Cut the last segment, or flip one of its bits."""
    paths = sorted(path for path in contents if path.startswith("log/") and contents[path])
    if not paths:
        return contents
    data = bytearray(contents[paths[-1]])
    at = chance.randrange(len(data))
    if chance.random() < 0.5:
        del data[at:]
    else:
        data[at] ^= 1 << chance.randrange(8)
    return contents | {paths[-1]: bytes(data)}
