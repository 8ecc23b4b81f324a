"""How long it takes, against what else there is: in a sandbox, interleaved, in one run.

worker     runs inside, with whatever Python: one contender that plugs, plugs again and unplugs as it is told
contest    starts the contenders, has them take turns, and keeps what each turn took
record     what a run keeps, and how it is written; runs told together
tally      medians, spreads and ratios of what was taken, and the bars they are held against
page       the figures as Markdown, between two marks of a page
svg        the pictures: a growth curve and bars
"""
