"""The XDP plane: a BPF program decides in the network driver. Python loads it, fills its maps and reads its counters.

Begin with program.c, which shows the path of a packet; then read plane.py and program.py.
"""
