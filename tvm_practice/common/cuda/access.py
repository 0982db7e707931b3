"""How the warps of a kernel touch memory: coalescing and bank conflicts, from a trace.

The simulator runs one thread after the other, so it cannot see what a GPU does with the 32
addresses that the threads of a warp send at once. But which addresses these are, the trace knows;
and the rules are public (CUDA C++ Programming Guide, "Device Memory Accesses" and "Shared Memory",
compute capability 5.0 and later):

- Global memory moves in sectors of 32 bytes. A request of a warp costs as many sectors as its
  addresses touch.
- Shared memory has 32 banks of 4 bytes. The words that a warp asks of one bank are delivered one
  after the other; threads that ask for the same word are served together. Accesses of 8 bytes go in
  two halves of the warp, those of 16 bytes in four quarters.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from tvm_practice.common.cuda.kernels import WARP
from tvm_practice.common.cuda.simulate import WRITE, Traced

SECTOR = 32
BANKS, WORD = 32, 4


@dataclass(frozen=True)
class Pattern:
    """One access of the program, over all requests that the warps of the traced block make by it.

    array: its name; shared: whether it lies in shared memory; write; width: bytes of one thread.
    line: of the kernel's source, 0 if not known. requests: how often a warp executes it.
    sectors, asked: of global memory, how many sectors move, and how many different bytes the
    requests are for. ways: of shared memory, how many rounds its banks need for a request on the
    average; 1 is free of conflicts.
    """

    array: str
    shared: bool
    write: bool
    width: int
    line: int
    requests: int
    sectors: int
    asked: int
    ways: float

    @property
    def efficiency(self) -> float:
        """Of the bytes that global memory moves, the share that the request was for."""
        return self.asked / (self.sectors * SECTOR) if self.sectors else 1.0


def patterns(traced: Traced) -> list[Pattern]:
    """Every access of a traced block, in the order of the program's text."""
    kernel = traced.kernel
    names = [*kernel.parameters, *(array.name for array in kernel.shared)]
    first_shared = len(kernel.parameters)
    found = []
    loaded = _without_repeated_loads(traced)
    for site in np.unique(loaded["site"]):
        accesses = loaded[loaded["site"] == site]
        array = int(accesses["array"][0])
        size = int(accesses["size"][0])
        width, write = size % WRITE, size >= WRITE
        requests = _requests(accesses)
        common = (names[array], array >= first_shared, write, width)
        line = traced.lines.get(int(site), 0)
        if array >= first_shared:
            ways = float(np.mean([_ways(one, width) for one in requests]))
            found.append(Pattern(*common, line, len(requests), 0, 0, ways))
        else:
            sectors = sum(_sectors(one["offset"], width) for one in requests)
            asked = sum(len(np.unique(one["offset"])) * width for one in requests)
            found.append(Pattern(*common, line, len(requests), sectors, asked, 1.0))
    return sorted(found, key=lambda one: one.line)


def merged(found: list[Pattern]) -> list[Pattern]:
    """One pattern for each array, direction and width: what a table has room for."""
    groups: dict[tuple, list[Pattern]] = defaultdict(list)
    for one in found:
        groups[one.array, one.shared, one.write, one.width].append(one)
    return [
        Pattern(
            *key,
            ones[0].line,
            sum(one.requests for one in ones),
            sum(one.sectors for one in ones),
            sum(one.asked for one in ones),
            sum(one.ways * one.requests for one in ones) / sum(one.requests for one in ones),
        )
        for key, ones in groups.items()
    ]


def _without_repeated_loads(traced: Traced) -> np.ndarray:
    """The accesses without loads that a compiler leaves out: where a thread loads an element of an
    array, and the next it loads of this array is the same again, it is in a register still. (A
    polynomial of an element names it many times.)"""
    accesses = traced.accesses
    keys = np.stack(
        [accesses["thread"], accesses["array"], accesses["size"], accesses["offset"]]
    ).astype(np.int64)
    order = np.lexsort((np.arange(len(accesses)), *keys[2::-1]))  # each thread's own, in its order
    ordered = keys[:, order]
    repeated = np.zeros(len(accesses), bool)
    repeated[order[1:]] = (ordered[:, 1:] == ordered[:, :-1]).all(axis=0)
    return accesses[~(repeated & (accesses["size"] < WRITE))]


def _requests(accesses: np.ndarray) -> list[np.ndarray]:
    """What a warp sends at once: the accesses of its threads, each one's n-th at this site."""
    count: dict[int, int] = defaultdict(int)
    together: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, thread in enumerate(accesses["thread"].tolist()):
        together[thread // WARP, count[thread]].append(number)
        count[thread] += 1
    return [accesses[numbers] for numbers in together.values()]


def _sectors(offsets: np.ndarray, width: int) -> int:
    return len(np.unique(np.concatenate((offsets // SECTOR, (offsets + width - 1) // SECTOR))))


def _ways(request: np.ndarray, width: int) -> float:
    """Rounds that the banks need for a request, divided by those it needs without a conflict."""
    at_once = WARP * WORD // max(width, WORD)  # lanes that are served together
    group = request["thread"] % WARP // at_once
    rounds = []
    for one in np.unique(group):
        first = request["offset"][group == one] // WORD
        words = np.unique(np.concatenate([first + n for n in range(max(1, width // WORD))]))
        rounds.append(int(np.bincount(words % BANKS).max()))
    return sum(rounds) / len(rounds)
