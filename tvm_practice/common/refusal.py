"""What TVM means when it refuses a schedule primitive, in plain words.

A ScheduleError prints the whole program, then a sentence for compiler engineers, about
`tirx.For#0` and "some block iter". The names of loops and blocks are put back from the program, and
the usual sentences are said again. Names of an older TVM are told by common/old_names.py, and too
few or too many names for what a call returned by common/unpacking.py.
"""

from __future__ import annotations

import re

from tvm_practice.common import old_names, unpacking

_TYPES = {
    "LoopRV": "a loop",
    "SBlockRV": "a block",
    "str": "a string",
    "int": "an integer",
    "list": "a list",
}

# (TVM's words, ours); what a group of the pattern caught is put in for {1}, {2}.
_MEANINGS = (
    (
        (
            r"some block iter whose block binding contains the loop var is not a data parallel"
            r" block iter"
        ),
        (
            "this loop is a reduction (or was fused with one). Its iterations add to the same"
            " element of the result; each needs what the one before left there, so they cannot"
            " happen at the same time."
        ),
    ),
    (
        r"The product of factors is not larger than or equal to the extent of loop (\S+)",
        (
            "the factors multiply to less than the extent of loop {1}, so iterations would be "
            "lost."
            " Write None for the factor that is to be whatever is left."
        ),
    ),
    (
        r"Only one factor can be specified as -1 or none",
        "only one of the factors may be None, or what is left is not determined.",
    ),
    (
        r"The (loop|block) no longer exists in the IRModule",
        (
            "this {1} no longer exists: an earlier primitive has put others in its place (split,"
            " fuse and decompose_reduction do). Use what that primitive returned, or ask"
            " sch.get_loops or sch.get_sblock again."
        ),
    ),
    (
        r"Cannot find a block with the name: (\w+)",
        'there is no block named "{1}" now, only {blocks}.{apart}',
    ),
    (r"Loop (\S+) appears in the input array for multiple times", "loop {1} is given twice."),
    (
        (
            r"The loops are not in a chain because"
            r" (?:they are not under the same scope|there is a non-single-branch stmt)"
        ),
        (
            "reorder only moves loops that are nested directly in each other, around one and the"
            " same statement."
        ),
    ),
    (
        r"the outer loop (\S+) is not the parent of the inner loop (\S+)",
        (
            "fuse takes loops that stand directly inside one another, the outer one first; {2} "
            "does not stand directly in {1}. If {1} stands in {2}, give them in the other order;"
            " if a third loop stands between them, reorder first."
        ),
    ),
    (
        r"the inner loop (\S+) is not the only child of outer loop (\S+?)\.?$",
        "{1} is not all that {2} contains, so the two cannot become one loop. (A copy that stands "
        "further inside than you think, or is a single thread's own, has fewer loops of its own.)",
    ),
    (
        r"The block (\S+) is an output block",
        (
            "compute_at and compute_inline move a block to its reader, and nothing in the program"
            " reads the output, {1}. A block at the end of the program is moved to where what it"
            " reads is made: reverse_compute_at, reverse_compute_inline."
        ),
    ),
    (
        r"Expected the block (\S+) and loop (\S+) to be under the same block scope",
        (
            "block {1} already stands in loop {2}. The block to be moved is the copy, the loop one"
            " around the computation it copies."
        ),
    ),
    (
        r"decompose_reduction expect the loop (\S+) to be higher than all the loops",
        (
            "the zeroing would stand just before loop {1}, which lies inside of the reduction: for"
            " every k the sum would start again from 0. Give it the loop k, or one around k."
        ),
    ),
    (
        r"The block (\S+) is not a reduction block - it violates condition #1\.",
        (
            "block {1} does not zero anything (any more): it is no reduction, or was decomposed"
            " before."
        ),
    ),
    (
        (
            r"The block (\S+) has (\d+) (read|write) regions, so `buffer_index` is required .*"
            r" `buffer_index` is (-?\d+),"
        ),
        "block {1} {3}s {2} buffer(s), counted from 0; there is no number {4}.",
    ),
    (
        r"The queried subtree root (\S+) in SRef tree does not have compact dataflow",
        (
            "loop {1} contains half of a reduction, from which decompose_reduction took the"
            " zeroing, and TVM can no longer prove its iterations independent. Set the kinds of "
            "the"
            " loops before decompose_reduction."
        ),
    ),
    (
        r"The buffer (\S+) is expected to be written by single block, but got (\d+) blocks",
        (
            "{1} is written by {2} blocks (the zeroing and the adding), and a copy can be put"
            " behind one writer only. cache_write comes before decompose_reduction; a cache_read "
            "of"
            " {1} itself is of no use."
        ),
    ),
    (
        r'The input storage scope "(\w+)" is invalid',
        (
            'there is no storage scope "{1}". Registers are "local" in TVM, memory is "global", '
            'and what the threads of a GPU\'s block share is "shared".'
        ),
    ),
    (
        (
            r"The transformation .* on buffer (\S+) of shape (\(.*?\)) would result in shape"
            r" (\(.*?\))\. However, this would introduce padding"
        ),
        (
            "{1} of shape {2} would become {3}, which has room for more elements than there are: a"
            " factor in the lambda does not divide the extent."
        ),
    ),
    (
        r"args\.size\(\) == initial_indices_orig\.size\(\)",
        (
            "the lambda must take one index for each dimension that the buffer has now; it returns"
            " those it is to have."
        ),
    ),
    (
        r"match the tensor intrin .*with T\.init\(\)",
        (
            "the loops also set the result to zero, and the description of the instruction only"
            " adds. Take the zeroing apart first: decompose_reduction."
        ),
    ),
    (
        r"match the tensor intrin ",
        (
            "this loop and what is inside of it are not what the description of the instruction"
            " says: other extents, another order, another type, scope or layout of a buffer."
        ),
    ),
    (
        r'The "bind" cannot be fulfilled with regard to block (\S+?)\. .* contains (\w+) does not',
        (
            "loop {2} runs over a reduction: its iterations add to the same element, and blocks "
            "cannot wait for each other. Only threads of one block may share a reduction."
        ),
    ),
    (
        r"because the loop (\S+) has annotation or thread binding",
        (
            "loop {1} has a kind, an annotation or a thread axis already. Split, fuse and reorder "
            "come before vectorize, unroll and bind. (Of a copy, sch.get_loops gives the loops "
            "around it first; its own are the last ones.)"
        ),
    ),
    (
        r"The block (\S+) is not a complete block - it violates condition #1\.",
        (
            "block {1} is a sum, or what decompose_reduction left of one: an element is finished"
            " only after all of its terms, so it cannot be computed in the place where it is read."
            " It is the reader that can go into the block that stores the finished sum:"
            " reverse_compute_inline."
        ),
    ),
    (
        r"The block (\S+) is not a complete block - it violates condition #2\.",
        "block {1} does not alone make what it writes: another block writes to the same buffer.",
    ),
    (
        r"The block (\S+) is not a complete block - it violates condition #3\.",
        "block {1} reads the buffer that it writes.",
    ),
    (
        r"The consumer block \S+ to be inlined is required to have only a single producer block",
        (
            "reverse_compute_inline puts a block into the one block that makes what it reads. Here"
            " several make it (decompose_reduction leaves two, the zeroing and the adding), or it"
            " has other readers besides."
        ),
    ),
    (
        r"Unknown threadscope (\S*)",
        'there is no thread axis "{1}". The six are "blockIdx.x", "blockIdx.y", "blockIdx.z", '
        '"threadIdx.x", "threadIdx.y" and "threadIdx.z".',
    ),
    (
        r"TensorIntrin '(\S+)' is not registered",
        'no instruction is registered under the name "{1}".',
    ),
    (
        (
            r"requires all the producer\(s\) of the given block to be present under the target"
            r" loop.*List of the producer\(s\): ?(\S+)"
        ),
        "{1}, which the block reads, is not computed inside of that loop.",
    ),
    (
        r"requires all the consumer\(s\) of the given block to be present under the target loop",
        (
            "compute_at moves a block into a loop that stands around all that reads it, and not all"
            " of its readers stand in that loop."
        ),
    ),
    (
        r"TVM supports multiple types of integer divisions",
        "indices are divided with `//`, not with `/`.",
    ),
    (
        (
            r'In "Schedule\.(\w+)", "([\w\[\]]+)" has wrong type\. Expected "([^"]+)", but gets:'
            r' "([^"]+)"'
        ),
        "{1} takes {3} here, but was given {4}.",
    ),
    (
        r"fn=(\w+),.* param=(\w+), .* expect Tensor with dtype (\w+) but get (\w+)",
        (
            "{1} takes a tensor {2} of {3}, but was given one of {4}. (NumPy makes float64 unless"
            ' told otherwise; array.astype("{3}") is the same array in {3}.)'
        ),
    ),
    (
        r"fn=(\w+),.* param=(\w+), annotation=R\.Tensor\((\(.*?\)),.* with ndim \d+ but get (\d+)",
        "{1} takes a tensor {2} of shape {3}; the number of dimensions it was given is {4}.",
    ),
    (
        (
            r"input_shape\[i\] == reg \((\d+) vs\. .*fn=(\w+),.* param=(\w+), "
            r"annotation=R\.Tensor\((\(.*?\)),.* shape\[(\d+)\]"
        ),
        "{2} takes a tensor {3} of shape {4}, but was given one with {1} in dimension {5}.",
    ),
    (
        r"Invoking function (\w+) expects (\d+) arguments \((.*?)\), but (\d+) arguments",
        "{1} takes ({3}), so the number of arguments is {2}, but it was given {4}.",
    ),
    (
        r"Expect the rt_mod to be an runtime\.Module",
        "relax.VirtualMachine runs what tvm.compile makes of a module, and nothing else.",
    ),
    (
        r"Module has no function '(\w+)'",
        (
            'the module has no function "{1}". (What tvm.compile makes of a model is called by'
            ' relax.VirtualMachine(executable, device)["main"].)'
        ),
    ),
)

# The same for NumPy.
_NUMPY = (
    (
        r"all input arrays must have the same shape",
        "rows of different shapes cannot be stacked to one array.",
    ),
    (
        r"The requested array has an inhomogeneous shape",
        "rows of different lengths do not make one array.",
    ),
    (
        r"zero-dimensional arrays cannot be concatenated",
        (
            "concatenate puts rows one behind another, and was given single numbers. max() and"
            " sum() of a whole array are single numbers; with axis=0 they have one for each"
            " column."
        ),
    ),
    (
        r"only integer scalar arrays can be converted to a scalar index",
        "an array stands where a single number is wanted. (concatenate takes one list of arrays.)",
    ),
)


def in_plain_words(error: Exception) -> str:
    """What an exception says; TVM's own words, shortened, where they are none of the usual ones."""
    if told := old_names.about(error) or unpacking.about(error):
        return told
    text, blocks = str(error), ""
    if "Error message:" in text:
        program, _, text = text.rpartition("Error message:")
        blocks = ", ".join(
            f'"{name}"' for name in re.findall(r'T\.sblock\("(\w+)"\)', program) if name != "root"
        )
        for number, block, loop in re.findall(
            r'# (\S+#\d+)\s+(?:with T\.sblock\("(\w+)"\)|for (\w+) in )', program
        ):
            text = re.sub(
                rf"(?:s_tir|tirx)?\.?{re.escape(number.rpartition('.')[2])}\b", block or loop, text
            )
    text = " ".join(text.split())
    for who, meanings in (("TVM", _MEANINGS), ("NumPy", _NUMPY)):
        for pattern, meaning in meanings:
            if found := re.search(pattern, text):
                words = [_type(word) for word in found.groups()]
                apart = _taken_apart(words, blocks)
                return f"{who} refuses: {meaning.format('', *words, blocks=blocks, apart=apart)}"
    if isinstance(error, NameError) and error.name in old_names.MODULES:
        return (
            f"the module `{error.name}` is not imported here. `import tvm` gives tvm, "
            "`from tvm import te` gives te."
        )
    text = text if len(text) <= 400 else text[:400] + " ..."
    return f"{type(error).__name__}: {text or 'no message'}"


def _taken_apart(words: list[str], blocks: str) -> str:
    """A remark where the block that was asked for is there no more, or not yet, for a
    decompose_reduction."""
    name = re.sub(r"_(?:init|update)$", "", words[0]) if words else ""
    if not name:
        return ""
    if f'"{name}_update"' in blocks:
        return f' (decompose_reduction took "{name}" apart into "{name}_init" and "{name}_update".)'
    if name != words[0] and f'"{name}"' in blocks:
        return f' (It is decompose_reduction that makes "{name}_init" and "{name}_update" of it.)'
    return ""


def _type(word: str) -> str:
    """ "LoopRV" as "a loop", "List[LoopRV]" as "a list"; any other word is left as it is."""
    return "a list" if word.startswith("List[") else _TYPES.get(word, word)
