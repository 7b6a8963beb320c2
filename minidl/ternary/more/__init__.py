"""More on ternary gradients, for those who have read the chapter: nothing in it needs a file from here.

sums.py             4 min   every rank adds a part: bytes that grow with log(workers), not with workers
rans.py             6 min   trits and sums in hardly more bits than their entropy
server.py           3 min   the same by way of servers, as in the paper
requantise.py       3 min   sums in four bits, for hundreds of workers
cost_model.py       5 min   what an exchange takes: from messages, bytes and numbers to seconds
dither.py           3 min   draws that keep out of each other's way: half the noise, no byte more
fused.py            2 min   all tensors of a step in one exchange
auto.py             3 min   which exchange, and whether it is worth it
paper_model.py      4 min   the paper's own model: 1 to 512 GPUs
overlap.py          4 min   exchanging while backward still runs
"""
