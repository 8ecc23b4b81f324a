"""The benchmark: hybridvif against its competitors, interleaved in one run, in a sandbox. Not part of the package.

Run it with tools/bench, or in the root of a checkout with `PYTHONPATH=. python -P -m benchmarks`.

__main__   the command line, and the figures as text or JSON
contest    starts the contenders, gives them turns and records the seconds of each turn
worker     runs inside the sandbox, with any Python: one contender that plugs, plugs again and unplugs
record     the record of a run as JSON; several runs merged into one
tally      medians, spreads and ratios of a record, and the bars for them
page       the figures as Markdown, between two marks of a page
svg        the pictures: a growth curve and bars
planning   a program of its own: plan, check and list of ten thousand ports in memory
made_of    a program of its own: the parts of the time of a plug
deletes    a program of its own: the kernel's time of deletes, and what it waits for
path       a program of its own: the modules and the stack depth of a plug
"""
