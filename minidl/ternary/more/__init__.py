"""More on ternary gradients, for those who have read the chapter: nothing in it needs a file from here.

overlap.py          4 min   exchanging while backward still runs
"""
