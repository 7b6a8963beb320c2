"""Chapter 3: ternary gradients (TernGrad, NIPS 2017), from one number to several processes.

ternarise.py        5 min   g -> s {-1, 0, 1}, unbiased, in exact integers
pack.py             5 min   trits as bytes: 2 bits, 1.6 bits, and bit-fields that MPI can add
comm.py             5 min   ranks that talk, and a ledger of what they say
collectives.py      3 min   what all ranks do together, in messages from one to another
sim_comm.py         5 min   n ranks in one process, with a clock, one message at a time
allreduce.py        3 min   the mean of all ranks' gradients, in ternary and in float
ring.py             3 min   the float baseline: our own ring, in 32 and 16 bits
data_parallel.py    6 min   training with it: reduce() between backward and step
workers.py          4 min   virtual workers: the same bits on any number of ranks; saving and agreeing
launch.py           7 min   starting ranks, and making sure that they end
heartbeat.py        4 min   what a rank tells its launcher, and what the launcher makes of silence
magic.py            2 min   a notebook's cell on several ranks
"""
