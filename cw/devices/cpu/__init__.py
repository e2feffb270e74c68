"""The CPU as a device: real torch inference on one thread, and pages that are pages.

`device.py` is the `Device` and `lane.py` its thread. `pages.py` has the memory of the weights,
`address_space.py` the system calls below it, `heap.py` the memory of all else. `program.py` has the
exported programs and `inputs.py` their input buffers.
"""
