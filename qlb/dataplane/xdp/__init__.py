"""The XDP plane: the whole decision in the driver, in a BPF program that Python loads, feeds and reads.

Begin with program.c, the way of a packet; then plane.py, which fills its maps.
"""
