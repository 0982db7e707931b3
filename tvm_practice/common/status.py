"""What a command's exit status says: nothing is wrong (an unsolved exercise is not wrong), an
answer is wrong, the command could not run, it was interrupted."""

NOTHING_WRONG, ANSWER_WRONG, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 130
