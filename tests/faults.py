"""What can go wrong with a run, and what is right then. Tests say which of these they try: `@pytest.mark.fault(3, 4)`.

Numbers 37 to 49 are faults of text and data, and not of this list.
"""

from typing import NamedTuple


class Fault(NamedTuple):
    what: str
    right: str
    untried: str = ""  # what of it is not tried, and why; "" = all of it is


SAVING = "stopped and saved, or a line that says what is lost; an exit code of train/supervision/exits.py"

FAULTS = {
    1: Fault(
        "SIGKILL at any point of a save",
        "the next start goes on from the newest whole step, bit for bit; leftovers are removed, and named",
    ),
    2: Fault(
        "SIGKILL while a checkpoint is read, or while old ones are deleted",
        "the next start works",
        "export: there is none yet",
    ),
    3: Fault(
        "one bit flipped in any file of a checkpoint",
        "a line names step and file; the step before is used; the bad one is kept under another name",
    ),
    4: Fault(
        "a file of a checkpoint cut short, emptied, removed or with zeros at its end; a manifest that is none",
        "as for a flipped bit",
    ),
    5: Fault(
        "strange folders and files among the checkpoints; the newest one copied in part",
        "the strange ones are left alone; the half copy is told, and the step before is used",
    ),
    6: Fault(
        "the disk is full, or fills up during a save",
        "an error at once; the files of that save are removed, older steps are whole; the run stops or goes on, as "
        "the recipe has it; a disk that is too small is refused before the run starts",
    ),
    7: Fault(
        "the run directory is read-only, is a file, holds something else; checkpoints lie on another file system",
        "refused before anything slow; another file system does no harm",
    ),
    8: Fault(
        "the disk hangs in a save",
        "the watchdog names the phase, writes all stacks, and ends the run; nothing is saved on top",
    ),
    9: Fault(
        "two jobs in one run directory",
        "the second refuses, and says who trains there and since when; a dead owner is replaced; one who wakes up "
        "after that cannot write",
    ),
    10: Fault(
        "a run is started again while its old process finishes a save",
        "the new one sees that the old one lives",
    ),
    11: Fault("resumed with another model", "refused, with every field that differs, old and new"),
    12: Fault(
        "resumed with another optimizer, schedule, batch, seed or text",
        "refused field by field; what can be done all the same is done with --accept-changes, and told",
    ),
    13: Fault(
        "resumed on another mesh, or with another number of processes",
        "the rows are the same; losses agree within a stated tolerance",
        "from CPU to GPU: the tests need no accelerator; another number of processes: by "
        "`python -m tests.campaigns.resharding`",
    ),
    14: Fault(
        "a checkpoint or recipe of an older or newer version",
        "read as it was meant, or refused with both versions",
    ),
    15: Fault("names in a manifest that lead out of the checkpoint, or links that do", "refused"),
    16: Fault(
        "a file made by an attacker in place of one of a run",
        "refused; nothing in it is executed",
        "safetensors and YAML: a run directory holds neither",
    ),
    17: Fault(
        "few checkpoints are kept, and the newest is bad",
        "the only good one is never deleted, nor the best; where none is good, nothing is renamed or started anew",
    ),
    18: Fault(
        "the clock jumps, two machines' clocks differ, the time zone changes",
        "steps are ordered by number, durations come from a clock that does not jump",
    ),
    19: Fault("a power cut took the end of a file that was said to be on the disk", "as for a flipped bit"),
    20: Fault(
        "SIGTERM in any phase, twice, to one of several processes, or with handlers of other libraries",
        SAVING,
        "export: there is none yet",
    ),
    21: Fault(
        "Ctrl-C once, twice; the terminal goes away",
        "once is as SIGTERM; the second time ends at once, and says what is lost; without its terminal a run goes on",
    ),
    22: Fault(
        "one of several processes is killed in a step",
        "the others name it and end with code 70; started again, the run goes on",
    ),
    23: Fault(
        "one of several processes stands still",
        "the others name it and end with code 70",
        "in a barrier, or while reading: only in a step",
    ),
    24: Fault(
        "one of several processes fails on its own",
        "it says why, and ends with the code for that; the others say that it left, and end",
    ),
    25: Fault(
        "process 0 is killed, which the others are connected through",
        "they name it and end with code 70; JAX's own text about a closed socket is not the last word",
    ),
    26: Fault(
        "processes of one run differ in recipe, code, text or packages",
        "all refuse, with the field and what each of them has; nothing is written",
    ),
    27: Fault(
        "the address of process 0 is wrong or its port in use; a process never comes",
        "a line with the address, what was found there and how long was waited; no endless wait",
        "a firewall that drops packets",
    ),
    28: Fault(
        "the mesh is not as large as the devices, or divides heads, width, rows or vocabulary badly; 0 or less",
        "one line with both numbers, and one that fits",
    ),
    29: Fault(
        "device memory is too small",
        "a line with the bytes that were asked for, and the fields that decide; checkpoints are whole",
        "accelerators, and a later step than the first: the tests run on a CPU",
    ),
    30: Fault(
        "the kernel kills the run for want of memory",
        "started again, it goes on",
        "an estimate beforehand: host memory does not grow with the text, which is read row by row",
    ),
    31: Fault(
        "NaN or infinity in loss, gradient or parameters; a loss that jumps",
        "such a step changes nothing, its rows are named, and stop.skipped of them in a row end the run; none is saved",
    ),
    32: Fault("NaN in saved parameters", "`gptjax checkpoint verify` and whoever loads them refuse"),
    33: Fault(
        "no steps; saved or measured more rarely than there are steps; started again at the end, or beyond it",
        "0 is refused; the rest ends saved and measured once",
    ),
    34: Fault(
        "killed between a checkpoint and what was due after it",
        "measured, sampled and reported by the next start, once",
    ),
    35: Fault("metrics or events cannot be written", "told once; training goes on"),
    36: Fault(
        "a run that dies again and again at the same step",
        "refused after 5 such starts, or 10 that were killed, with the cause",
    ),
    40: Fault(
        "a process is killed at any request of a save to a bucket; two own a run on one, or one sleeps in a save",
        "the older step stays, the new one is whole or none; one owner is refused, or finds out before it makes a step",
    ),
    41: Fault(
        "an object store answers with errors, late, in part or never; a bucket is not there or may not be written",
        "asked again with growing pauses, then told with the object's URL; what is not whole is never used",
    ),
    50: Fault(
        "an unknown field, a typo, a wrong type or a value out of range",
        "named, with what was meant, before JAX is imported",
        "YAML: no configuration is written in it",
    ),
}
